"""Some bad inputs through the whole program: refusals with nothing in the output, oddities with good masks."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import bad_files
import inference
from bad_files import Place, Spoil, both, changed
from bad_inputs import Layout, Outcome, table
from check_masks import check_masks
from petct.case import Tracer
from petct.channels import OrganEncoding
from petct.manifest import Architecture
from petct.output import mask_file
from platform_case import write_platform_case
from tiny_nnunet import make_member, make_results
from whole_case import Models, stand_in_models, write_case, write_manifest

PROGRAM = Path(inference.__file__)
PSMA, FDG = Tracer.PSMA, Tracer.FDG
MOST_S, MOST_MIB = 10.0, 1024.0
# Rows of the table: one of each kind, in either layout.
SAMPLE = (
    "fdg threshold is a pipe, platform",
    "psma pet is a device, training",
    "pet claims many axes, platform",
    "pet claims a million voxels a side, training",
    "pet unpacks to 2 GiB more than it claims, platform",
    "pet unpacks to 2 GiB more than it claims, training",
    "pet with one nan, training",
    "threshold deeply nested, platform",
    "file name that is not UTF-8, platform",
    "fdg ct is a link out, platform",
    "organs with label 200, training",
)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[Layout, Path]:
    """A healthy case in each layout."""
    folder = tmp_path_factory.mktemp("healthy")
    training = write_case(folder / "training")
    write_platform_case(training, input_dir=folder / "platform")
    return {Layout.TRAINING: training, Layout.PLATFORM: folder / "platform"}


# A process takes its parent's peak for its own, so a small one stands between these tests and the program.
MEASURED = """
import json, resource, subprocess, sys
code = subprocess.call(sys.argv[2:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
with open(sys.argv[1], "w") as file:
    json.dump([used.ru_utime + used.ru_stime, used.ru_maxrss], file)
sys.exit(code)
"""


def copy_of(cases: dict[Layout, Path], layout: Layout, folder: Path, spoil: Spoil) -> Place:
    place = Place(folder / "case", is_platform=layout is Layout.PLATFORM)
    shutil.copytree(cases[layout], place.folder)
    spoil(place)
    return place


@pytest.mark.parametrize("name", SAMPLE)
def test_the_program_refuses_in_time_and_memory_and_writes_nothing(
    name: str, cases: dict[Layout, Path], tmp_path: Path
) -> None:
    (row,) = [row for row in table() if row.name == name]
    assert row.outcome is Outcome.REFUSED
    place = copy_of(cases, row.layout, tmp_path, row.spoil)
    output = tmp_path / "output"
    manifest = write_manifest(stand_in_models(tmp_path / "models"))
    command = [sys.executable, PROGRAM, "--input", place.folder, "--output", output, "--manifest", manifest]

    with (tmp_path / "stdout").open("wb") as stdout, (tmp_path / "stderr").open("wb") as stderr:
        process = subprocess.run(
            [sys.executable, "-c", MEASURED, tmp_path / "used.json", *command],
            stdout=stdout,
            stderr=stderr,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            check=False,
        )
    processor_s, peak_kib = json.loads((tmp_path / "used.json").read_text())

    said = (tmp_path / "stderr").read_bytes().decode("utf-8")
    assert process.returncode == 1, said
    assert re.fullmatch(r"\S[^\n]*: \S[^\n]*\n", said), said
    (tmp_path / "stdout").read_bytes().decode("utf-8")
    # A refused case of the training set's layout leaves the run's record, and nothing else.
    assert [path.name for path in output.rglob("*") if not path.is_dir()] in ([], ["run.json"])
    # The processor's seconds: how long others keep it busy is not this program's doing.
    assert processor_s < MOST_S
    assert peak_kib / 1024 < MOST_MIB


# ----------------------------------------------------------------------------------------------- odd, and nothing wrong


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """A tiny network for each tracer."""
    folder = tmp_path_factory.mktemp("models")
    members = {}
    for tracer, dataset_id in ((PSMA, 801), (FDG, 912)):
        options = {
            "architecture": Architecture.PLAIN if tracer is PSMA else Architecture.RESENC_M,
            "dataset_id": dataset_id,
            "folds": (0,),
            "encoding": OrganEncoding.NONE if tracer is PSMA else OrganEncoding.BINARY,
        }
        members[tracer] = (make_member(make_results(folder / "results", **options), folder / str(tracer), **options),)
    return Models(folder=folder, members=members, organ_weights=folder / "organs")


@pytest.fixture(scope="module")
def run(models: Models) -> Callable[[Path, Path], dict[Tracer, np.ndarray]]:
    def run_case(case: Path, output: Path) -> dict[Tracer, np.ndarray]:
        arguments = ["--input", str(case), "--output", str(output), "--manifest", str(write_manifest(models))]
        assert inference.main([*arguments, "--device", "cpu"]) == 0
        return {tracer: sitk.GetArrayFromImage(sitk.ReadImage(mask_file(output, tracer))) for tracer in Tracer}

    return run_case


@pytest.fixture(scope="module")
def healthy_masks(
    cases: dict[Layout, Path], run: Callable[..., dict[Tracer, np.ndarray]], tmp_path_factory: pytest.TempPathFactory
) -> dict[Tracer, np.ndarray]:
    masks = run(cases[Layout.PLATFORM], tmp_path_factory.mktemp("output"))
    assert all(mask.any() for mask in masks.values())
    return masks


def rows(*names: str) -> Spoil:
    """What several rows of the table do to a case, one after the other."""
    spoils = {row.name: row.spoil for row in table()}
    return both(*(spoils[name] for name in names))


@pytest.mark.parametrize(
    "spoil",
    [
        rows(
            "file name with line breaks, platform",
            "registration of a reflection, platform",
            "inputs.json deeply nested, platform",
            "organs of float64, platform",
            "threshold as an object, platform",
            "threshold is a link within the case, platform",
            "case is a link, platform",
        ),
        rows(
            "file name with control characters, platform",
            "registration of a 3 x 3, platform",
            "inputs.json is a pipe, platform",
            "ct of float64, platform",
            "pet not compressed inside, platform",
            "ct is a link within the case, platform",
        ),
    ],
)
def test_what_is_only_odd_changes_no_mask(
    spoil: Spoil,
    cases: dict[Layout, Path],
    run: Callable[..., dict[Tracer, np.ndarray]],
    healthy_masks: dict[Tracer, np.ndarray],
    tmp_path: Path,
) -> None:
    place = copy_of(cases, Layout.PLATFORM, tmp_path, spoil)

    masks = run(place.folder, tmp_path / "output")

    for tracer in Tracer:
        assert np.array_equal(masks[tracer], healthy_masks[tracer])
    assert check_masks(tmp_path / "output", input_dir=place.folder) == []


def test_an_organ_map_and_a_ct_stored_the_other_way_round_change_no_mask(
    cases: dict[Layout, Path],
    run: Callable[..., dict[Tracer, np.ndarray]],
    healthy_masks: dict[Tracer, np.ndarray],
    tmp_path: Path,
) -> None:
    place = copy_of(cases, Layout.PLATFORM, tmp_path, rows("organs and ct stored the other way round, platform"))

    masks = run(place.folder, tmp_path / "output")

    for tracer in Tracer:
        # Resampling rounds otherwise when it comes from the other side.
        assert np.mean(masks[tracer] != healthy_masks[tracer]) < 0.01
    assert check_masks(tmp_path / "output", input_dir=place.folder) == []


@pytest.mark.parametrize("axis_xyz", [0, 1, 2])
def test_masks_of_a_flipped_pet_lie_on_its_flipped_grid(
    axis_xyz: int, cases: dict[Layout, Path], run: Callable[..., dict[Tracer, np.ndarray]], tmp_path: Path
) -> None:
    flip = both(*(changed(tracer, "pet", bad_files.flipped(axis_xyz)) for tracer in Tracer))
    place = copy_of(cases, Layout.PLATFORM, tmp_path, flip)

    run(place.folder, tmp_path / "output")

    assert check_masks(tmp_path / "output", input_dir=place.folder) == []


@pytest.mark.parametrize(
    "keep", [(slice(None), slice(None), slice(12, 13)), (slice(9, 10), slice(8, 9), slice(12, 13))]
)
def test_a_pet_of_one_slice_or_voxel_gives_a_mask_of_one(
    keep: tuple[slice, slice, slice],
    cases: dict[Layout, Path],
    run: Callable[..., dict[Tracer, np.ndarray]],
    tmp_path: Path,
) -> None:
    place = copy_of(cases, Layout.PLATFORM, tmp_path, changed(PSMA, "pet", lambda image: image[keep]))

    run(place.folder, tmp_path / "output")

    faults = check_masks(tmp_path / "output", input_dir=place.folder)
    assert faults in ([], ["images/psma-pet-ttb: must hold at least one voxel of disease, got none"])
