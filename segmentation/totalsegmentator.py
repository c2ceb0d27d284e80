"""Finding the organs on CTs with TotalSegmentator, offline and in a process of its own."""

from __future__ import annotations

import json
import logging
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from petct.body import body_box
from petct.errors import CaseError
from petct.geometry import Array, Grid, check_same_grid, grid_of, to_array, to_image
from petct.images import itk_warnings_in_log
from petct.manifest import OrganSettings, OrganTask
from petct.organs import Organ, collapse, totalsegmentator_labels
from petct.temporary import temporary_folder
from segmentation.totalsegmentator_process import RunningChild
from segmentation.weight_files import check_files

LOGGER = logging.getLogger(__name__)

CHILD = Path(__file__).with_name("totalsegmentator_child.py")
WEIGHT_FILES = ("plans.json", "dataset.json", "fold_0/checkpoint_final.pth")

# TotalSegmentator 2's own names of its models' folders: data set, then trainer, plans and configuration.
_DATASETS = {
    OrganTask.TOTAL: (
        "Dataset291_TotalSegmentator_part1_organs_1559subj",
        "Dataset292_TotalSegmentator_part2_vertebrae_1532subj",
        "Dataset293_TotalSegmentator_part3_cardiac_1559subj",
        "Dataset294_TotalSegmentator_part4_muscles_1559subj",
        "Dataset295_TotalSegmentator_part5_ribs_1559subj",
    ),
    OrganTask.FAST: ("Dataset297_TotalSegmentator_total_3mm_1559subj",),
    OrganTask.FASTEST: ("Dataset298_TotalSegmentator_total_6mm_1559subj",),
}
TRAINERS = {
    OrganTask.TOTAL: "nnUNetTrainerNoMirroring",
    OrganTask.FAST: "nnUNetTrainer_4000epochs_NoMirroring",
    OrganTask.FASTEST: "nnUNetTrainer_4000epochs_NoMirroring",
}
# What `totalseg_download_weights -t` calls them; the 6 mm model comes with the 3 mm model.
_DOWNLOADS = {OrganTask.TOTAL: "total", OrganTask.FAST: "total_fast", OrganTask.FASTEST: "total_fast"}

# Each of them is larger than anything else that a torso shows, so a map with none of them is wrong.
_EXPECTED_ORGANS = (Organ.BONE, Organ.LUNG, Organ.LIVER)

_DEVICES = {"cuda": "gpu", "cpu": "cpu"}  # TotalSegmentator's own words
NIFTI_HEADER_BYTES = 352  # of a single file, by the format's description
# Real air around the patient: the step from skin to air is then far from the edge of what the network sees.
BODY_MARGIN_MM = 20.0
# Of an even share of the time for all CTs: so much is kept for each that is still to come.
_LEAST_SHARE = 0.25


@dataclass(frozen=True)
class HurriedOrganSettings(OrganSettings):
    """The manifest's settings where all CTs of a case share a time limit, too.

    Attributes:
        total_s: Time for all CTs together, > 0.
    """

    total_s: float


def find_organs(
    ct: sitk.Image,
    *,
    settings: OrganSettings,
    device: str,
    where: str,
    crop_to_body: bool = False,
    child: Path = CHILD,
) -> sitk.Image:
    """TotalSegmentator's `total` labels on one CT; see `find_organ_maps`."""
    maps = find_organ_maps({where: ct}, settings=settings, device=device, crop_to_body=crop_to_body, child=child)
    return maps[where]


def find_organ_maps(
    cts: Mapping[str, sitk.Image],
    *,
    settings: OrganSettings,
    device: str,
    crop_to_body: bool,
    child: Path = CHILD,
) -> dict[str, sitk.Image]:
    """TotalSegmentator's `total` labels on CTs, one after the other in one process, which loads its model once.

    Nothing is downloaded or sent, the weights' folder is only read, and neither the environment nor nnU-Net of the
    calling process are changed. TotalSegmentator's output is logged at level DEBUG.

    Args:
        cts: CTs in HU, 3D, each by whose it is, for the log and the errors (`psma ct`).
        settings: Which model, where its weights lie and how long it may take: for each CT, and perhaps for all.
        device: `cuda` or `cpu`; without CUDA, `cuda` is an error and not a run on the CPU.
        crop_to_body: Whether the network sees only the patient's box with 20 mm around it, in the very voxels that
            TotalSegmentator would show it. Outside, no organ is found. The network's windows lie elsewhere than
            without, which changes labels at some organs' edges; without, the labels are TotalSegmentator's own.
        child: The program that runs TotalSegmentator.

    Returns:
        For each CT, uint8 labels 0-117 on exactly its grid, with some bone, lung or liver.

    Raises:
        CaseError: The weights are missing, are not those of the manifest or have no digest in it, TotalSegmentator
            fails or takes longer than the settings allow for a CT, or its map is not on the CT's grid, has other
            labels, or shows no bone, lung or liver. The error says for which CT; there are no maps then, not even of
            the CTs before it.
        ValueError: The device is neither `cuda` nor `cpu`.
    """
    if device not in _DEVICES:
        raise ValueError(f"device must be one of {', '.join(_DEVICES)}, got {device}")
    if not cts:
        return {}
    all_started_s = time.monotonic()
    check_organ_weights(settings, where=next(iter(cts)))
    check_pinned(settings, where=next(iter(cts)))
    name = f"TotalSegmentator ({settings.task.value})"
    maps = {}
    with temporary_folder("organs_") as folder:
        options = ["--task", settings.task.value, "--device", _DEVICES[device]]
        least_xyz = _window_xyz(settings, where=next(iter(cts))) if crop_to_body else (1, 1, 1)
        options += ["--least", ",".join(map(str, least_xyz)), *_pins(settings)]
        for number, (where, ct) in enumerate(cts.items()):
            options += _write_ct(ct, number=number, folder=folder, crop_to_body=crop_to_body, where=where)
        # -P: the child finds installed packages first, not its neighbours in this folder.
        command = [sys.executable, "-P", str(child), *options]
        started_s = time.monotonic()
        with RunningChild(command, folder=folder, weights=settings.weights, wheres=list(cts)) as running:
            for number, (where, ct) in enumerate(cts.items()):
                used_s = time.monotonic() - all_started_s
                timeout_s = _timeout_s(settings, used_s=used_s, number=number, cts=len(cts))
                LOGGER.info("%s: %s runs, at most %.4g s", where, name, timeout_s)
                running.wait_for_answer(where=where, timeout_s=timeout_s)
                labels = _read_labels(folder / f"organs_{number}.nii", grid=grid_of(ct), where=where)
                maps[where] = to_image(labels, grid_of(ct))
                _log_found(labels, name=f"{where}: {name}", seconds=time.monotonic() - started_s)
                started_s = time.monotonic()
    return maps


def _timeout_s(settings: OrganSettings, *, used_s: float, number: int, cts: int) -> float:
    """How long a CT, counted from 0 of so many, may take when so much of the time for all of them is used."""
    if not isinstance(settings, HurriedOrganSettings):
        return settings.timeout_s
    kept_s = _LEAST_SHARE * settings.total_s / cts * (cts - 1 - number)
    return min(settings.timeout_s, max(settings.total_s - used_s - kept_s, 0.0))


def model_folders(task: OrganTask) -> tuple[str, ...]:
    """Folders of a task's models, relative to the folder of weights, as TotalSegmentator names them."""
    return tuple(f"{dataset}/{TRAINERS[task]}__nnUNetPlans__3d_fullres" for dataset in _DATASETS[task])


def check_organ_weights(settings: OrganSettings, *, where: str) -> None:
    """Check that every weight file of the task is there, and that the manifest's files are the ones that it means.

    Raises:
        CaseError: A file is missing (the message tells how to get it), is a git-LFS pointer or differs from its digest.
    """
    for model in model_folders(settings.task):
        for file in WEIGHT_FILES:
            path = settings.weights / model / file
            if not path.is_file():
                download = f"totalseg_download_weights -t {_DOWNLOADS[settings.task]}"
                raise CaseError(
                    where,
                    f"TotalSegmentator's weights are missing: {path}; to get them, run "
                    f"TOTALSEG_WEIGHTS_PATH={shlex.quote(str(settings.weights))} {download} where there is a network",
                )
    check_files(settings.weights, settings.sha256, where=f"{where} TotalSegmentator")


def unpinned_files(settings: OrganSettings) -> list[str]:
    """The task's files, relative to the folder of weights, that the manifest gives no digest for."""
    files = (f"{model}/{file}" for model in model_folders(settings.task) for file in WEIGHT_FILES)
    return [file for file in files if file not in settings.sha256]


def _pins(settings: OrganSettings) -> list[str]:
    """The child's options that say which checkpoints it may read."""
    files = (file for file in settings.sha256 if file.endswith(".pth"))
    return [word for file in files for word in ("--pinned", f"{settings.sha256[file]}={settings.weights / file}")]


def check_pinned(settings: OrganSettings, *, where: str) -> None:
    """Check that the manifest gives a digest for every weight file of the task.

    Raises:
        CaseError: A file has none.
    """
    if unpinned := unpinned_files(settings):
        # What a checkpoint says is run, and plans name the classes of what is built.
        rule = f"manifest must give the sha256 of every file in [organs.sha256], {unpinned[0]} has none"
        files = " ".join(map(shlex.quote, unpinned))
        command = f"(cd {shlex.quote(str(settings.weights))} && sha256sum {files})"
        raise CaseError(f"{where} TotalSegmentator", f"{rule}; to get them from files that you trust, run {command}")


def _window_xyz(settings: OrganSettings, *, where: str) -> tuple[int, int, int]:
    """The window of the task's networks in voxels along (x, y, z), the largest of them along each axis."""
    windows = []
    for model in model_folders(settings.task):
        path = settings.weights / model / WEIGHT_FILES[0]
        try:
            plans = json.loads(path.read_text(encoding="utf-8"))
            window = plans["configurations"]["3d_fullres"]["patch_size"]
            # The network's axes are those of the image, (z, y, x), in another order.
            windows.append([int(window[plans["transpose_forward"].index(axis)]) for axis in (2, 1, 0)])
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise CaseError(where, f"TotalSegmentator's {path} must be nnU-Net plans", repr(error)) from error
    x, y, z = map(max, *windows) if len(windows) > 1 else windows[0]
    return x, y, z


def _write_ct(ct: sitk.Image, *, number: int, folder: Path, crop_to_body: bool, where: str) -> list[str]:
    """Write a CT for the child; returns the child's options for it."""
    ct_file, organs_file, grid = folder / f"ct_{number}.nii", folder / f"organs_{number}.nii", grid_of(ct)
    hu = to_array(ct)
    # A fresh image has no header entries of its own, which ITK would write or complain of.
    image = to_image(hu, grid)
    try:
        with itk_warnings_in_log(where):
            sitk.WriteImage(image, ct_file)
        # ITK's writer of .nii says nothing of a full disk.
        least_bytes = hu.nbytes + NIFTI_HEADER_BYTES
        if ct_file.stat().st_size < least_bytes:
            raise CaseError(where, f"CT must fit into {folder}", f"{ct_file.stat().st_size} of {least_bytes} bytes")
    except (OSError, RuntimeError) as error:
        said = str(error).strip().splitlines()[-1:]
        raise CaseError(where, f"CT must be writable to {folder}", "".join(said) or type(error).__name__) from error
    box = tuple(slice(0, size) for size in grid.shape_zyx)
    if crop_to_body:
        box = body_box(hu, spacing_mm_zyx=grid.spacing_mm_zyx, margin_mm=BODY_MARGIN_MM)
        LOGGER.info(
            "%s: the patient fills %.0f %% of the CT",
            where,
            100.0 * np.prod([part.stop - part.start for part in box]) / hu.size,
        )
    limits_xyz = ",".join(f"{part.start},{part.stop}" for part in reversed(box))
    return ["--ct", str(ct_file), "--organs", str(organs_file), "--box", limits_xyz]


def _log_found(labels: Array, *, name: str, seconds: float) -> None:
    found = np.unique(labels)
    organs = [Organ(number).name.lower() for number in np.unique(collapse(found)) if number]
    LOGGER.info(
        "%s found %d of %d labels (%s), %.1f s",
        name,
        np.count_nonzero(found),
        len(totalsegmentator_labels()),
        ", ".join(organs),
        seconds,
    )


def _read_labels(organs: Path, *, grid: Grid, where: str) -> Array:
    """The child's map as uint8 (z, y, x), once it is known to be an organ map of this CT."""
    if not organs.is_file():
        raise CaseError(where, "TotalSegmentator must write an organ map, and did not")
    try:
        with itk_warnings_in_log(where):
            image = sitk.ReadImage(organs)
    except RuntimeError as error:
        raise CaseError(where, "TotalSegmentator's organ map must be readable", str(error)) from error
    check_same_grid(grid_of(image), grid, where=f"{where} TotalSegmentator's organ map", name="the CT")
    labels = to_array(image)
    if not np.issubdtype(labels.dtype, np.integer):
        raise CaseError(where, "TotalSegmentator's organ map must hold whole numbers", str(labels.dtype))
    low, high, highest = int(labels.min()), int(labels.max()), max(totalsegmentator_labels())
    if low < 0 or high > highest:
        raise CaseError(where, f"TotalSegmentator's labels must be within 0-{highest}", f"{low}-{high}")
    labels = labels.astype(np.uint8, copy=False)
    if not np.isin(collapse(np.unique(labels)), _EXPECTED_ORGANS).any():
        raise CaseError(
            where,
            "TotalSegmentator's organ map must show bone, lung or liver",
            f"{np.count_nonzero(labels)} labelled voxels, none of them",
        )
    return labels
