"""A small case, small networks, and what a run of it needs; made once, for all faults."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from faults.fault import Fault, Place
from petct.case import Tracer
from petct.channels import OrganEncoding
from petct.geometry import to_image
from petct.manifest import Architecture, Backend, OrganTask
from petct.output import mask_file
from platform_case import write_platform_case
from tiny_nnunet import make_member, make_results
from tiny_organ_net import write_tiny_fold
from training.weights.organ_weights import export_organ_weights
from whole_case import PET_GRIDS, Models, write_case, write_manifest

REPOSITORY = Path(__file__).resolve().parents[2]
MANIFEST = "manifest.toml"
SHORT = "short.toml"  # the same, but TotalSegmentator has little time
SHORT_S = 20
PHANTOM_SEED = "9001"  # the demo networks were never trained on it
CONVERTED = "psma-fdg-ttb/openvino"  # in the folder for caches


@dataclass(frozen=True)
class Kit:
    """What every run is made of.

    Attributes:
        given: The case with its organ maps, in the platform's layout.
        found: The case without.
        models: Manifests and weights.
        converted: The networks, converted for OpenVINO.
    """

    given: Path
    found: Path
    models: Path
    converted: Path


def make_kit(folder: Path) -> Kit:
    """Make it, in an empty folder."""
    training = write_case(folder / "training")
    write_platform_case(training, input_dir=folder / "given")
    write_platform_case(training, input_dir=folder / "found", has_organs=False)
    models = folder / "models"
    members = {}
    for tracer, architecture, dataset_id, encoding in (
        (Tracer.PSMA, Architecture.PLAIN, 801, OrganEncoding.NONE),
        (Tracer.FDG, Architecture.RESENC_M, 912, OrganEncoding.BINARY),
    ):
        options = {"architecture": architecture, "dataset_id": dataset_id, "folds": (0,), "encoding": encoding}
        results = make_results(folder / "results", **options)
        members[tracer] = (make_member(results, models / str(tracer), **options),)
    fold = write_tiny_fold(folder / "results")
    export_organ_weights(
        fold,
        plans=fold.parent / "plans.json",
        dataset_json=fold.parent / "dataset.json",
        task=OrganTask.FASTEST,
        destination=models / "organs",
    )
    written = write_manifest(
        Models(folder=models, members=members, organ_weights=models / "organs"),
        name=Path(MANIFEST).stem,
        backend=Backend.OPENVINO,
    )
    text = written.read_text(encoding="utf-8")
    (models / SHORT).write_text(text.replace("timeout_s = 600.0", f"timeout_s = {SHORT_S}.0"), encoding="utf-8")
    return Kit(folder / "given", folder / "found", models, _convert(written, into=folder / "converted"))


def make_demo_kit(folder: Path) -> Kit:
    """A phantom of the demo size and the demo networks."""
    make = [sys.executable, "-m", "training", "phantom", "--size", "demo", "--seeds", PHANTOM_SEED]
    subprocess.run([*make, "--output", folder / "phantom"], cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
    (psma,) = (folder / "phantom").rglob("PSMA")
    write_platform_case(psma.parent, input_dir=folder / "given")
    write_platform_case(psma.parent, input_dir=folder / "found", has_organs=False)
    models = folder / "models"
    shutil.copytree(REPOSITORY / "resources" / "demo", models / "demo")
    shutil.copy(REPOSITORY / "resources" / "demo.toml", models / MANIFEST)
    return Kit(folder / "given", folder / "found", models, _convert(models / MANIFEST, into=folder / "converted"))


def _convert(manifest: Path, *, into: Path) -> Path:
    convert = [sys.executable, "-m", "segmentation.convert", manifest, "--into", into]
    subprocess.run(convert, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
    return into


def lay_out(kit: Kit, folder: Path, *, fault: Fault) -> Place:
    """The folders of one run, with the masks of an earlier case in the output, made ready for the fault."""
    place = Place(
        input=kit.found if fault.finds_organs else kit.given,
        models=folder / "models",
        output=folder / "output",
        tmp=folder / "tmp",
        marks=folder / "marks",
    )
    shutil.copytree(kit.models, place.models)
    shutil.copytree(kit.converted, place.tmp / "cache" / CONVERTED)
    place.marks.mkdir()
    for tracer in Tracer:
        stale = mask_file(place.output, tracer)
        stale.parent.mkdir(parents=True)
        sitk.WriteImage(to_image(np.ones(PET_GRIDS[tracer].shape_zyx, dtype=np.uint8), PET_GRIDS[tracer]), stale)
    if fault.prepare:
        fault.prepare(place)
    for path in (folder, *folder.rglob("*")):  # the image's user is somebody else
        path.chmod(0o777 if path.is_dir() else 0o666)
    return place


def program_environment(*, tmp: str, marker: str, inject: str, more: Mapping[str, str]) -> dict[str, str]:
    """What the run's environment has besides: caches and temporary files in the run's own folder, and the fault."""
    return {
        "TMPDIR": tmp,
        "XDG_CACHE_HOME": f"{tmp}/cache",
        "OMP_NUM_THREADS": "1",
        "FAULT": inject,
        "FAULT_MARKER": marker,
        **more,
    }
