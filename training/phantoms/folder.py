"""A phantom on disk, in the layout of the challenge's training set."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import SimpleITK as sitk

from petct.case import Tracer
from petct.errors import CaseError
from training.phantoms.patient import Phantom


def write_patient(phantom: Phantom, folder: Path) -> Path:
    """Write `train_{seed:04d}` into a folder (made if missing) and return its path.

    The patient appears whole or not at all: it is written to a temporary sibling folder that is renamed at the end.

    Raises:
        CaseError: The patient's folder is already there.
    """
    target = folder / f"train_{phantom.seed:04d}"
    if target.exists():
        raise CaseError(str(target), "folder must not exist yet")
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=folder))
    try:
        for tracer in Tracer:
            _write_scan(phantom, tracer, temporary / tracer.value.upper())
        temporary.chmod(0o755)  # mkdtemp's own mode keeps other users out
        os.replace(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return target


def _write_scan(phantom: Phantom, tracer: Tracer, folder: Path) -> None:
    folder.mkdir()
    scan = phantom.scan(tracer)
    for name, image in (("CT", scan.ct), ("PET", scan.pet), ("TTB", scan.truth), ("totseg_24", scan.organs)):
        sitk.WriteImage(image, str(folder / f"{name}.nii.gz"), useCompression=True)
    (folder / "threshold.json").write_text(json.dumps({"suv_threshold": scan.suv_threshold}) + "\n", encoding="utf-8")
    transform = phantom.psma_to_fdg if tracer is Tracer.FDG else phantom.psma_to_fdg.GetInverse()
    sitk.WriteTransform(transform, str(folder / "rigid.tfm"))
