"""Writing the masks so that the output folder never holds half a result."""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from petct.case import Tracer
from petct.errors import CaseError
from petct.geometry import Grid, to_image
from petct.mask_check import Mask, Uptake, check_mask_file
from petct.mask_places import FDG_FOLDER, HIDDEN_NAME, MASK_NAME, PSMA_FOLDER, take_away_masks
from petct.temporary import temporary_folder, why_unwritable

MASK_FOLDERS: Mapping[Tracer, str] = {Tracer.PSMA: PSMA_FOLDER, Tracer.FDG: FDG_FOLDER}


def prepare_output(output: Path) -> None:
    """Make the output folder, and take an earlier run's masks out of it; call this before reading the case.

    A case that is then refused must not leave another case's masks behind to be taken for its own, so they go before
    anything is refused. The platform wants one file per socket, so a file that is not ours is refused, not deleted.

    Args:
        output: The output folder.

    Raises:
        CaseError: It cannot be made or written to, or a socket's folder holds something else.
    """
    take_away_masks(output)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CaseError(str(output), "output must be a folder that can be written to", error.strerror) from error
    check_places(output)
    for place in MASK_FOLDERS.values():
        for name in (MASK_NAME, HIDDEN_NAME):
            if os.path.lexists(output / place / name):
                raise CaseError(str(output / place / name), "an earlier mask must be removable")


def check_places(output: Path) -> None:
    """Check that both masks can be written into an output folder, and that nothing else lies where they go.

    Raises:
        CaseError: A folder that is there cannot be written to, or a socket's folder holds something that is no mask of
            ours.
    """
    for folder in (output, output / "images", *(output / place for place in MASK_FOLDERS.values())):
        if folder.exists() and not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
            raise CaseError(str(folder), "output must be a folder that can be written to")
    ours = {MASK_NAME, HIDDEN_NAME}
    for place in MASK_FOLDERS.values():
        foreign = sorted(path.name for path in (output / place).glob("*") if path.name not in ours)
        if foreign:
            raise CaseError(str(output / place), f"must hold nothing but {MASK_NAME}", ", ".join(foreign[:5]))


def write_masks(
    masks: Mapping[Tracer, tuple[Mask, Grid]], *, folder: Path, uptake: Mapping[Tracer, Uptake] | None = None
) -> dict[Tracer, Path]:
    """Write every tracer's mask, or none: all are written and checked elsewhere before the first appears.

    Args:
        masks: Per tracer the TTB, (z, y, x), and the grid of its PET.
        folder: The output folder, after `prepare_output`.
        uptake: Per tracer the PET and its threshold, below which no voxel may be disease. Without them this one promise
            is not checked again.

    Returns:
        The file of each tracer.

    Raises:
        CaseError: A mask cannot be written, what is read back breaks a promise (`petct.mask_check`), or a socket's
            folder holds another file besides.
        ValueError: A mask or a PET is not of its grid's shape, or a mask not boolean.
    """
    targets = {tracer: folder / MASK_FOLDERS[tracer] / MASK_NAME for tracer in masks}
    with temporary_folder("ttb-") as staging:
        staged = {
            tracer: _stage(
                mask,
                grid=grid,
                uptake=None if uptake is None else uptake[tracer],
                file=staging / f"{tracer}.mha",
            )
            for tracer, (mask, grid) in masks.items()
        }
        try:
            for tracer, target in targets.items():
                _bring(staged[tracer], target)
            # Nothing but renaming is left, so that hardly any time lies between the first mask and the last.
            for target in targets.values():
                _show(target)
            for target in targets.values():
                _check_alone(target)
        except BaseException:
            # All of them: a signal may strike between the renaming of a mask and any note of it.
            take_away_masks(folder)
            raise
    return targets


def _stage(mask: Mask, *, grid: Grid, uptake: Uptake | None, file: Path) -> Path:
    if mask.dtype != np.bool_:
        raise ValueError(f"mask must be boolean, got {mask.dtype}")
    if uptake is not None and uptake.pet_suv.shape != mask.shape:
        raise ValueError(f"PET must have the mask's shape {mask.shape} (z, y, x), got {uptake.pet_suv.shape}")
    image = to_image(mask.astype(np.uint8), grid)
    try:
        sitk.WriteImage(image, str(file), useCompression=True)
    except RuntimeError as error:
        raise CaseError(file.name, f"mask must be writable to {file.parent}", str(error).splitlines()[-1]) from error
    try:
        check_mask_file(file, mask=mask, grid=grid, uptake=uptake)
    except CaseError as error:
        if (reason := why_unwritable(file.parent)) is not None:  # ITK does not notice a disk that is full
            raise CaseError(file.name, f"mask must be writable to {file.parent}", reason) from error
        raise
    return file


def _bring(staged: Path, target: Path) -> None:
    """Copy a checked file beside its place; no name that anyone looks at ever holds part of it.

    It is renamed within the folder, because a rename from /tmp, another file system, is not atomic.
    """
    hidden = target.with_name(HIDDEN_NAME)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(staged, hidden)
        is_same = filecmp.cmp(staged, hidden, shallow=False)
    except OSError as error:
        raise CaseError(str(target), "mask must be writable", error.strerror) from error
    if not is_same:
        raise CaseError(str(target), "mask must arrive as it was checked", "other bytes")


def _show(target: Path) -> None:
    try:
        os.replace(target.with_name(HIDDEN_NAME), target)
    except OSError as error:
        raise CaseError(str(target), "mask must be writable", error.strerror) from error


def _check_alone(target: Path) -> None:
    """The platform wants one file per socket, and whoever looks for a mask must find this one."""
    others = sorted(path.name for path in target.parent.iterdir() if path.name != target.name)
    if others or target.is_symlink():
        raise CaseError(str(target.parent), f"must hold nothing but {target.name}", ", ".join(others[:5]) or "a link")


def mask_file(output: Path, tracer: Tracer) -> Path:
    """Where a tracer's mask lies in an output folder."""
    return output / MASK_FOLDERS[tracer] / MASK_NAME
