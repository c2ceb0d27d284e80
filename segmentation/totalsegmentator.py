"""Finding the organs on a CT with TotalSegmentator, offline and in a process of its own."""

from __future__ import annotations

import json
import logging
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from petct.errors import CaseError
from petct.geometry import Array, Grid, check_same_grid, grid_of, to_array, to_image
from petct.images import itk_warnings_in_log
from petct.manifest import OrganSettings, OrganTask
from petct.organs import Organ, collapse, totalsegmentator_labels
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
_LAST_LINES = 3
_LAST_CHARACTERS = 600


def find_organs(ct: sitk.Image, *, settings: OrganSettings, device: str, where: str, child: Path = CHILD) -> sitk.Image:
    """TotalSegmentator's `total` labels on a CT.

    Nothing is downloaded or sent, the weights' folder is only read, and neither the environment nor nnU-Net of the
    calling process are changed. TotalSegmentator's output is logged at level DEBUG.

    Args:
        ct: CT in HU, 3D.
        settings: Which model, where its weights lie and how long it may take.
        device: `cuda` or `cpu`; without CUDA, `cuda` is an error and not a run on the CPU.
        where: Whose CT it is, for the log and the errors (`psma ct`).
        child: The program that runs TotalSegmentator.

    Returns:
        uint8 labels 0-117 on exactly the CT's grid, with some bone, lung or liver.

    Raises:
        CaseError: The weights are missing or not those of the manifest, TotalSegmentator fails or takes longer than
            `settings.timeout_s`, or its map is not on the CT's grid, has other labels, or shows no bone, lung or liver.
        ValueError: The device is neither `cuda` nor `cpu`.
    """
    if device not in _DEVICES:
        raise ValueError(f"device must be one of {', '.join(_DEVICES)}, got {device}")
    started_s = time.monotonic()
    check_organ_weights(settings, where=where)
    LOGGER.info("%s: TotalSegmentator (%s) runs, at most %g s", where, settings.task.value, settings.timeout_s)
    grid = grid_of(ct)
    with tempfile.TemporaryDirectory(prefix="organs_", ignore_cleanup_errors=True) as folder:
        ct_file, organs_file = Path(folder, "ct.nii"), Path(folder, "organs.nii")
        # A fresh image has no header entries of its own, which ITK would write or complain of.
        with itk_warnings_in_log(where):
            sitk.WriteImage(to_image(to_array(ct), grid), ct_file)
        options = ["--ct", str(ct_file), "--organs", str(organs_file), "--task", settings.task.value]
        # -P: the child finds installed packages only, not its neighbours in this folder.
        command = [sys.executable, "-P", str(child), *options, "--device", _DEVICES[device]]
        _run_child(command, folder=Path(folder), settings=settings, where=where)
        labels = _read_labels(organs_file, grid=grid, where=where)
    found = np.unique(labels)
    organs = [Organ(number).name.lower() for number in np.unique(collapse(found)) if number]
    LOGGER.info(
        "%s: TotalSegmentator (%s) found %d of %d labels (%s), %.1f s",
        where,
        settings.task.value,
        np.count_nonzero(found),
        len(totalsegmentator_labels()),
        ", ".join(organs),
        time.monotonic() - started_s,
    )
    return to_image(labels, grid)


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


def _run_child(command: list[str], *, folder: Path, settings: OrganSettings, where: str) -> None:
    """Run the child to its end, with what it writes inside `folder`; kill it and all its kin when time is up."""
    output = folder / "output.txt"
    with (
        output.open("wb") as stream,
        # The child leaves when its standard input ends, so that it does not outlive this process.
        subprocess.Popen(
            command,
            env=_child_environment(folder, settings.weights),
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process,
    ):
        try:
            status = process.wait(timeout=settings.timeout_s)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    lines = [line.strip() for line in output.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    for line in lines:
        LOGGER.debug("%s: TotalSegmentator: %s", where, line)
    if status is None:
        raise CaseError(where, f"TotalSegmentator must finish within {settings.timeout_s:g} s, and was stopped")
    if status != 0:
        end = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        last = " | ".join(lines[-_LAST_LINES:])[-_LAST_CHARACTERS:]
        raise CaseError(where, "TotalSegmentator must end without an error", f"{end}: {last or 'no output'}")


def _child_environment(folder: Path, weights: Path) -> dict[str, str]:
    """The child's environment, and the configuration that TotalSegmentator reads from its home folder."""
    home = folder / "home"
    home.mkdir()
    configuration = {
        "totalseg_id": "none",
        "send_usage_stats": False,
        "prediction_counter": 0,
        "statistics_disclaimer_shown": True,
    }
    (home / "config.json").write_text(json.dumps(configuration), encoding="utf-8")
    return {
        **os.environ,
        "TOTALSEG_HOME_DIR": str(home),
        "TOTALSEG_WEIGHTS_PATH": str(weights),
        "TMPDIR": str(folder),
    }


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
