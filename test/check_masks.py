"""Check the masks that a run left in its output folder against the PET images of its input, both in platform layout.

    python test/check_masks.py INPUT_DIR OUTPUT_DIR [--truth CASE_DIR [--dice-floor 0.5]]

Stands alone on purpose: nothing of the product is imported, so that the product cannot vouch for itself.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

NIFTI_TOLERANCE_MM = 0.01  # its header holds single precision
_log = logging.getLogger("check_masks")


@dataclass(frozen=True)
class Socket:
    """Where one tracer's mask, its PET, its threshold and its truth lie."""

    mask: str
    pet: str
    threshold: str
    truth: str


SOCKETS = (
    Socket(
        mask="images/psma-pet-ttb",
        pet="images/psma-pet-ga-68",
        threshold="psma-pet-suv-threshold.json",
        truth="PSMA/TTB.nii.gz",
    ),
    Socket(
        mask="images/fdg-pet-ttb",
        pet="images/fdg-pet",
        threshold="fdg-pet-suv-threshold.json",
        truth="FDG/TTB.nii.gz",
    ),
)


def check_masks(
    output_dir: Path, *, input_dir: Path, truth_dir: Path | None = None, dice_floor: float = 0.0
) -> list[str]:
    """What is wrong with the masks.

    Args:
        output_dir: What the run got as /output.
        input_dir: What the run got as /input.
        truth_dir: The case in the training set's layout; None for no comparison.
        dice_floor: Lowest Dice against the truth that passes, for each tracer.

    Returns:
        One line per fault; empty when all is well.
    """
    faults = []
    expected = {path for socket in SOCKETS for path in (output_dir / socket.mask).glob("*.mha")}
    for path in sorted(output_dir.rglob("*")):
        if path.is_symlink() or (path.is_file() and path not in expected):
            faults.append(f"{path.relative_to(output_dir)}: only the masks may be left in the output")
    for socket in SOCKETS:
        masks = sorted((output_dir / socket.mask).glob("*.mha"))
        if len(masks) != 1:
            faults.append(f"{socket.mask}: must hold exactly one .mha, got {len(masks)}")
            continue
        mask = sitk.ReadImage(masks[0])
        (pet_file,) = (input_dir / socket.pet).glob("*.mha")
        pet = sitk.ReadImage(pet_file)
        own_faults = _mask_faults(mask, pet=pet)
        if not own_faults:
            own_faults = _uptake_faults(mask, pet=pet, threshold_file=input_dir / socket.threshold)
            own_faults += _nibabel_faults(mask)
        if not own_faults:
            own_faults = _content_faults(mask, socket, truth_dir=truth_dir, dice_floor=dice_floor)
        faults.extend(f"{socket.mask}: {fault}" for fault in own_faults)
    return faults


def _mask_faults(mask: sitk.Image, *, pet: sitk.Image) -> list[str]:
    faults = []
    if mask.GetPixelID() != sitk.sitkUInt8:
        faults.append(f"pixel type must be 8-bit unsigned integer, got {mask.GetPixelIDTypeAsString()}")
    for name in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        of_mask, of_pet = getattr(mask, name)(), getattr(pet, name)()
        if of_mask != of_pet:
            faults.append(f"{name.removeprefix('Get').lower()} must be the PET's {of_pet}, got {of_mask}")
    values = np.unique(sitk.GetArrayViewFromImage(mask))
    if not set(values.tolist()) <= {0, 1}:
        faults.append(f"values must be 0 and 1, got {values[:10].tolist()}")
    return faults


def _uptake_faults(mask: sitk.Image, *, pet: sitk.Image, threshold_file: Path) -> list[str]:
    """A voxel below the threshold is never disease."""
    content = json.loads(threshold_file.read_text(encoding="utf-8-sig"))
    suv_threshold = float(content["suv_threshold"] if isinstance(content, dict) else content)
    disease_suv = sitk.GetArrayViewFromImage(pet)[sitk.GetArrayViewFromImage(mask) == 1]
    below = disease_suv[disease_suv < suv_threshold]
    if below.size:
        return [
            f"disease must be at or above {suv_threshold} SUV, got {below.size} voxels below, down to {below.min()}"
        ]
    return []


def _nibabel_faults(mask: sitk.Image) -> list[str]:
    """nibabel reads no .mha, so it gets what most users would make of one: a NIfTI file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mask.nii.gz"
        sitk.WriteImage(mask, file)
        image = nibabel.Nifti1Image.from_filename(str(file))
        values = np.asarray(image.dataobj).T
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine  # from right, anterior, superior to ITK's LPS
    faults = []
    if values.dtype != np.uint8 or not np.array_equal(values, sitk.GetArrayViewFromImage(mask)):
        faults.append("nibabel must read the voxels that ITK reads, got others")
    last = [n - 1 for n in mask.GetSize()]
    off_mm = np.abs((affine @ [*last, 1.0])[:3] - mask.TransformIndexToPhysicalPoint(last)).max()
    if off_mm > NIFTI_TOLERANCE_MM:
        faults.append(f"nibabel must see the last voxel where ITK sees it, got {off_mm:.3g} mm off")
    return faults


def _content_faults(mask: sitk.Image, socket: Socket, *, truth_dir: Path | None, dice_floor: float) -> list[str]:
    found = sitk.GetArrayViewFromImage(mask) == 1
    volume_ml = float(np.count_nonzero(found)) * float(np.prod(mask.GetSpacing())) / 1000.0
    _log.info("%s: %d voxels, %.1f mL", socket.mask, np.count_nonzero(found), volume_ml)
    if not found.any():
        return ["must hold at least one voxel of disease, got none"]
    if truth_dir is None:
        return []
    truth = sitk.GetArrayFromImage(sitk.ReadImage(truth_dir / socket.truth)) == 1
    dice = dice_of(found, truth=truth)
    _log.info("%s: Dice %.3f", socket.mask, dice)
    return [] if dice >= dice_floor else [f"Dice must be at least {dice_floor}, got {dice:.3f}"]


def dice_of(found: npt.NDArray[Any], *, truth: npt.NDArray[Any]) -> float:
    """Dice of two boolean masks of one shape, of which at least one is not empty."""
    return 2.0 * float(np.count_nonzero(found & truth)) / float(np.count_nonzero(found) + np.count_nonzero(truth))


def main() -> None:
    """The command line; exit code 1 when something is wrong."""
    parser = argparse.ArgumentParser(description="Check the masks of a run.")
    parser.add_argument("input_dir", type=Path)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--truth", type=Path, help="the case in the training set's layout")
    parser.add_argument("--dice-floor", type=float, default=0.0, help="lowest Dice that passes")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    faults = check_masks(
        options.output_dir, input_dir=options.input_dir, truth_dir=options.truth, dice_floor=options.dice_floor
    )
    for fault in faults:
        _log.error(fault)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
