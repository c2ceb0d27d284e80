"""The whole case from its folder to the masks, as its user sees it: with tiny networks, or hand-made probabilities."""

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import inference
from check_masks import check_masks
from petct.case import Tracer
from petct.channels import OrganEncoding, channels_of
from petct.geometry import check_same_grid, grid_of, to_array
from petct.manifest import Architecture, OrganTask
from petct.organs import label_number
from petct.output import mask_file
from platform_case import SocketKey, write_platform_case
from segmentation import organ_maps
from segmentation.memory_use import MemoryUse
from segmentation.totalsegmentator import find_organ_maps
from tiny_nnunet import make_member, make_results
from tiny_organ_net import write_tiny_fold
from training.weights.organ_weights import export_organ_weights
from whole_case import (
    CT_GRIDS,
    PET_GRIDS,
    SPOTS,
    THRESHOLDS_SUV,
    UNSUPPORTED,
    Models,
    nearest,
    organ_labels,
    pet_suv,
    stand_in_models,
    write_case,
    write_manifest,
    write_organs,
)

PROGRAM = Path(inference.__file__)
WARNING = "random weights, not for patients"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Tiny networks: without organs and with for PSMA, with for FDG; and the organ network written by hand."""
    folder = tmp_path_factory.mktemp("models")

    def member(name: str, architecture: Architecture, dataset_id: int, encoding: OrganEncoding):
        options = {"architecture": architecture, "dataset_id": dataset_id, "folds": (0,), "encoding": encoding}
        return make_member(make_results(folder / "results", **options), folder / name, **options)

    members = {
        Tracer.PSMA: (
            member("psma_plain", Architecture.PLAIN, 801, OrganEncoding.NONE),
            member("psma_binary", Architecture.RESENC_M, 911, OrganEncoding.BINARY),
        ),
        Tracer.FDG: (member("fdg_soft", Architecture.RESENC_L, 922, OrganEncoding.SOFT_DISTANCE),),
    }
    fold = write_tiny_fold(folder / "results")
    export_organ_weights(
        fold,
        plans=fold.parent / "plans.json",
        dataset_json=fold.parent / "dataset.json",
        task=OrganTask.FASTEST,
        destination=folder / "organs",
    )
    return Models(folder=folder, members=members, organ_weights=folder / "organs")


def run(case: Path, output: Path, manifest: Path, *options: str) -> dict[Tracer, np.ndarray]:
    """Run a case in this process; returns its masks, which must be on the grids of the PETs."""
    arguments = ["--input", str(case), "--output", str(output), "--manifest", str(manifest), "--device", "cpu"]
    assert inference.main([*arguments, *options]) == 0
    masks = {}
    for tracer in Tracer:
        image = sitk.ReadImage(mask_file(output, tracer))
        check_same_grid(grid_of(image), PET_GRIDS[tracer], where=str(tracer), name="the PET")
        masks[tracer] = to_array(image).astype(bool)
    return masks


def are_equal(masks: dict[Tracer, np.ndarray], others: dict[Tracer, np.ndarray]) -> list[bool]:
    return [np.array_equal(masks[tracer], others[tracer]) for tracer in Tracer]


def test_the_program_as_the_platform_runs_it(models: Models, tmp_path: Path) -> None:
    write_platform_case(write_case(tmp_path / "training"), input_dir=tmp_path / "input")
    manifest = write_manifest(models, warning=WARNING)
    folders = ["--input", tmp_path / "input", "--output", tmp_path / "output"]

    done = subprocess.run(
        [sys.executable, PROGRAM, *folders, "--manifest", manifest, "--device", "cpu"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.stderr == ""
    assert done.returncode == 0
    assert check_masks(tmp_path / "output", input_dir=tmp_path / "input") == []
    lines = [line.split(" ", 1)[1] for line in done.stdout.splitlines()]
    stages = (
        r"INFO manifest: tiny \(.*tiny\.toml\)",
        f"WARNING {WARNING}",
        r"INFO device: cpu, 1 threads",
        r"INFO PSMA organs: given with the case",
        r"INFO FDG organs: given with the case",
        r"INFO member psma_plain: folds 0: \d+\.\d s",
        r"INFO member psma_binary: folds 0: \d+\.\d s",
        r"INFO PSMA threshold: \d+ lesions, TTB \d+\.\d mL, \d+\.\d s",
        r"INFO PSMA regrow: \d+ lesions, TTB \d+\.\d mL, \d+\.\d s",
        r"INFO member fdg_soft: folds 0: \d+\.\d s",
        r"INFO FDG threshold: \d+ lesions, TTB \d+\.\d mL, \d+\.\d s",
        r"INFO FDG regrow: \d+ lesions, TTB \d+\.\d mL, \d+\.\d s",
        r"INFO FDG refine: \d+ lesions, \d+ kept .*",
        r"INFO PSMA mask: .*images/psma-pet-ttb/ttb\.mha",
        r"INFO FDG mask: .*images/fdg-pet-ttb/ttb\.mha",
        r"INFO input: done in \d+\.\d s",
    )
    found = [[number for number, line in enumerate(lines) if re.fullmatch(stage, line)] for stage in stages]
    assert [len(numbers) for numbers in found] == [1] * len(stages), done.stdout
    # What is made of PSMA's probabilities is made beside FDG's networks.
    for others in ("FDG|fdg", "PSMA|psma"):
        in_order = [place for stage, place in zip(stages, found, strict=True) if not re.search(others, stage)]
        assert in_order == sorted(in_order), done.stdout


def test_both_layouts_and_every_inputs_json_give_the_same_masks(models: Models, tmp_path: Path) -> None:
    training = write_case(tmp_path / "training")
    manifest = write_manifest(models)

    expected = run(training, tmp_path / "output", manifest)

    assert all(mask.any() for mask in expected.values())
    for name, key in (("socket", SocketKey.SOCKET), ("interface", SocketKey.INTERFACE), ("missing", SocketKey.BOTH)):
        write_platform_case(training, input_dir=tmp_path / name, key=key)
        if name == "missing":
            (tmp_path / name / "inputs.json").unlink()
        # The same output folder each time: an earlier run's masks are replaced.
        assert are_equal(run(tmp_path / name, tmp_path / "output", manifest), expected) == [True, True], name


# ---------------------------------------------------------------------------------------------- the method, by hand


def hand_made_probabilities(tracer: Tracer) -> np.ndarray:
    """P(background), P(ttb), P(normal) of the spots; a voxel of several classes is not needed."""
    probabilities = np.zeros((3, *PET_GRIDS[tracer].shape_zyx), dtype=np.float32)
    for spot in SPOTS[tracer]:
        z, y, x = spot.centre_zyx
        probabilities[1, z, y, x] = spot.ttb
        probabilities[2, z, y, x + 1] = spot.normal
    probabilities[0] = 1.0 - probabilities[1:].sum(axis=0)
    return probabilities


class HandMade:
    """Stands in for the ensemble, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Tracer] = []
        self.asked_how: list[tuple[bool, float, str, float, bool]] = []
        self.channels: dict[Tracer, np.ndarray] = {}

    def __call__(self, scan, *, members, running, reach_mm, is_everywhere, name):
        (tracer,) = [tracer for tracer in Tracer if [member.name for member in members] == [f"{tracer}_member"]]
        check_same_grid(scan.grid, PET_GRIDS[tracer], where=str(tracer), name="the PET")
        self.asked_how.append((running.mirroring, running.tile_step, running.device.type, reach_mm, is_everywhere))
        assert name == tracer.name
        return HandMadeScan(self, scan, tracer, running)


class HandMadeScan:
    """One scan of it."""

    def __init__(self, all_scans: HandMade, scan, tracer: Tracer, running) -> None:
        self._all, self._scan, self._tracer = all_scans, scan, tracer
        self.running = running

    def inputs(self, *, pace):
        yield lambda: [self._scan.build(channel) for channel in channels_of(OrganEncoding.BINARY, None)]

    def begin(self, inputs, *, background, pace):
        pass

    def finish(self, inputs, *, background, pace):
        self._all.asked.append(self._tracer)
        self._all.channels[self._tracer] = np.stack(next(inputs))
        return hand_made_probabilities(self._tracer)


@pytest.fixture
def hand_made(monkeypatch: pytest.MonkeyPatch) -> HandMade:
    stand_in = HandMade()
    monkeypatch.setattr(inference, "ScanEnsemble", stand_in)
    monkeypatch.setattr(inference, "plan_memory", lambda *_, **__: MemoryUse.ample())  # its members have no plans
    return stand_in


def regrown_by_hand(
    tracer: Tracer, *, ttb: float, normal: float, radius_mm: float, protected: str, suv_threshold: float
) -> np.ndarray:
    """Threshold and regrow, from the words of the method: every distance between two voxels is measured."""
    grid = PET_GRIDS[tracer]
    probabilities = hand_made_probabilities(tracer)
    seeds = probabilities[1] > ttb
    places_mm = np.indices(grid.shape_zyx).reshape(3, -1).T * grid.spacing_mm_xyz[::-1]
    distances_mm = np.linalg.norm(places_mm[:, None] - places_mm[seeds.ravel()][None], axis=2).min(axis=1)
    near = (distances_mm <= radius_mm).reshape(grid.shape_zyx)
    in_protected = nearest(organ_labels(tracer), CT_GRIDS[tracer], at=grid) == label_number(protected)
    is_disease = (near & ~in_protected) | seeds
    return is_disease & ~(probabilities[2] > normal) & (pet_suv(tracer) >= suv_threshold)


def masks_by_hand() -> dict[Tracer, np.ndarray]:
    """The manifest's settings once more; the lesion that nothing supports is taken out of FDG."""
    psma = regrown_by_hand(
        Tracer.PSMA, ttb=0.45, normal=0.65, radius_mm=7.0, protected="liver", suv_threshold=THRESHOLDS_SUV[Tracer.PSMA]
    )
    fdg = regrown_by_hand(
        Tracer.FDG, ttb=0.25, normal=0.75, radius_mm=4.0, protected="spleen", suv_threshold=THRESHOLDS_SUV[Tracer.FDG]
    )
    fdg[UNSUPPORTED.box((2, 1, 1))] = False
    return {Tracer.PSMA: psma, Tracer.FDG: fdg}


def test_the_masks_are_those_of_the_method_done_by_hand(hand_made: HandMade, tmp_path: Path) -> None:
    manifest = write_manifest(stand_in_models(tmp_path / "models"), mirroring=True)

    masks = run(write_case(tmp_path / "case"), tmp_path / "output", manifest, "--time-limit", "none")

    expected = masks_by_hand()
    # 3 x 5 x 4 mm: within 7 mm of a spot's middle are all of its 5 x 3 x 3 voxels but the eight corners (1, 1, 1)
    # at 7.07 mm and, two slices away, all but the middle. 2.5 x 4 x 3.5 mm: within 4 mm are the six neighbours.
    grown = 5 * 3 * 3 - 8 - 2 * 8
    assert int(expected[Tracer.PSMA].sum()) == grown + 0 + 1 + grown + 0 + (grown - 1)
    assert int(expected[Tracer.FDG].sum()) == 7 + 0 + 7 + 1 + 7 + 7 + 7 + 7
    assert are_equal(masks, expected) == [True, True]
    assert hand_made.asked == [Tracer.PSMA, Tracer.FDG]
    assert hand_made.asked_how == [(True, 0.5, "cpu", 7.0, False), (True, 0.5, "cpu", 4.0, False)]
    for tracer in Tracer:
        assert np.allclose(hand_made.channels[tracer][0], pet_suv(tracer) / THRESHOLDS_SUV[tracer])
        labels = nearest(organ_labels(tracer), CT_GRIDS[tracer], at=PET_GRIDS[tracer])
        assert np.array_equal(hand_made.channels[tracer][4], labels == label_number("liver"))


def test_without_refinement_in_the_manifest_nothing_is_dropped(hand_made: HandMade, tmp_path: Path) -> None:
    manifest = write_manifest(stand_in_models(tmp_path / "models"), refinement=None)

    masks = run(write_case(tmp_path / "case"), tmp_path / "output", manifest, "--time-limit", "none")

    expected = masks_by_hand()
    z, y, x = UNSUPPORTED.centre_zyx
    for step_zyx in ((0, 0, 0), (1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)):
        expected[Tracer.FDG][z + step_zyx[0], y + step_zyx[1], x + step_zyx[2]] = True
    assert are_equal(masks, expected) == [True, True]


# ----------------------------------------------------------------------------------------------- where organs come from


def test_a_case_without_organ_maps_gets_them_from_totalsegmentator(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    found = {}

    def keep(cts, **options):
        maps = find_organ_maps(cts, **options)
        found.update(maps)
        return maps

    monkeypatch.setattr(organ_maps, "find_organ_maps", keep)
    case = write_case(tmp_path / "case", has_organs=False)
    manifest = write_manifest(models, refinement=None)

    masks = run(case, tmp_path / "output", manifest, "--time-limit", "none")

    assert list(found) == ["PSMA organs", "FDG organs"]
    assert all(f"{where}: TotalSegmentator (fastest) found 7 of 117 labels" in caplog.text for where in found)
    for tracer in Tracer:
        write_organs(case, tracer, to_array(found[f"{tracer.name} organs"]))
    assert are_equal(run(case, tmp_path / "output", manifest, "--organs", "given"), masks) == [True, True]
    for tracer, protected in ((Tracer.PSMA, "liver"), (Tracer.FDG, "spleen")):
        write_organs(case, tracer, np.full_like(organ_labels(tracer), label_number(protected)))
    assert are_equal(run(case, tmp_path / "output", manifest), masks) == [False, False]
    assert len(found) == 2


def test_given_organ_maps_are_set_aside_when_totalsegmentator_is_asked_for(
    hand_made: HandMade, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def all_spleen(cts, *, settings, device, crop_to_body):
        asked.append((list(cts), settings.weights.name, device, crop_to_body))
        return {where: sitk.Cast(ct > -5000, sitk.sitkUInt8) * label_number("spleen") for where, ct in cts.items()}

    monkeypatch.setattr(organ_maps, "find_organ_maps", all_spleen)
    manifest = write_manifest(stand_in_models(tmp_path / "models"), refinement=None)
    case = write_case(tmp_path / "case")

    masks = run(case, tmp_path / "output", manifest, "--organs", "totalsegmentator", "--time-limit", "none")

    assert asked == [(["PSMA organs", "FDG organs"], "organs", "cpu", False)]
    assert int(masks[Tracer.FDG].sum()) == len(SPOTS[Tracer.FDG])  # all is protected, so only seeds are left
    asked.clear()
    for source in ("auto", "given"):
        assert (
            run(case, tmp_path / "output", manifest, "--organs", source, "--time-limit", "none")[Tracer.FDG].sum()
            == 8 * 7 - 6
        )
    assert asked == [([], "organs", "cpu", False)] * 2
