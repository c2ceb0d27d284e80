"""The program that runs TotalSegmentator, in a process of its own because TotalSegmentator changes its process.

It calls sys.exit, sets nnU-Net's environment variables and replaces nnU-Net's functions. The caller
(`segmentation.totalsegmentator`) sets TOTALSEG_WEIGHTS_PATH and TOTALSEG_HOME_DIR, holds this program's standard input
open while it wants answers, is told of each organ map when it is written, and judges it.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

_GONE_STATUS = 3
DONE = b"done\n"


def main() -> None:
    """Read the command line and write the organ maps."""
    parser = argparse.ArgumentParser(description="Run TotalSegmentator on CTs, without any network connection.")
    parser.add_argument("--ct", type=Path, action="append", required=True, help="a CT in HU, .nii; may come again")
    parser.add_argument(
        "--box", type=_limits, action="append", required=True, help="its patient: x,x,y,y,z,z in voxels"
    )
    parser.add_argument("--organs", type=Path, action="append", required=True, help="its label map to write, .nii")
    parser.add_argument(
        "--least", type=_numbers, required=True, help="least size of a box: x,y,z in the network's voxels"
    )
    parser.add_argument("--task", choices=("total", "fast", "fastest"), required=True)
    parser.add_argument("--device", choices=("gpu", "cpu"), required=True)
    parser.add_argument(
        "--pinned", type=_pin, action="append", default=[], help="a checkpoint's digest and place: SHA256=PATH"
    )
    parser.add_argument("--answers", type=int, required=True, help="file descriptor to tell of each map that is there")
    options = parser.parse_args()
    threading.Thread(target=_leave_with_caller, daemon=True).start()
    forbid_network()
    # Last, so that nothing of ours hides an installed package.
    sys.path.append(str(Path(__file__).resolve().parent.parent))
    prepare(device=options.device, pinned=dict(options.pinned))
    for ct, box, organs in zip(options.ct, options.box, options.organs, strict=True):
        find_organs(ct, box=box, least=options.least, organs=organs, task=options.task, device=options.device)
        os.write(options.answers, DONE)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _limits(text: str) -> list[tuple[int, int]]:
    numbers = _numbers(text)
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _pin(text: str) -> tuple[Path, str]:
    sha256, _, path = text.partition("=")
    return Path(path).resolve(), sha256


def forbid_network() -> None:
    """Make every look-up of a name and every connection of this process an error, for good."""

    def refuse(event: str, details: tuple[Any, ...]) -> None:
        # The address of a local (AF_UNIX) socket is a path, that of a network socket a tuple.
        if event == "socket.getaddrinfo" or (event == "socket.connect" and isinstance(details[1], tuple)):
            raise RuntimeError(f"TotalSegmentator must not use the network, {event} was called")

    sys.addaudithook(refuse)


def _leave_with_caller() -> None:
    """Wait for the end of standard input, which comes only when the caller has gone, and leave at once."""
    # Not through sys.stdin, whose lock a forked process would find taken for ever.
    os.read(sys.stdin.fileno(), 1)
    os._exit(_GONE_STATUS)


def prepare(*, device: str, pinned: Mapping[Path, str]) -> None:
    """Import TotalSegmentator and replace what costs time or memory, or what could delete, download or run code.

    Args:
        device: `gpu` or `cpu`.
        pinned: SHA-256 per checkpoint, as the manifest gives them.

    Raises:
        RuntimeError: The GPU is asked for and there is none.
    """
    import torch

    if device == "gpu" and not torch.cuda.is_available():
        # TotalSegmentator itself would go on, on the CPU, without an error.
        raise RuntimeError("TotalSegmentator must run on the GPU, but CUDA is not available to it")

    from totalsegmentator import python_api

    # nnU-Net's paths must be set before it is imported, and TotalSegmentator's replacements come with this import;
    # ours must come after them.
    python_api.setup_nnunet()
    _leave_out_trainers()
    import nibabel as nib
    import totalsegmentator.nnunet
    from nnunetv2.preprocessing.cropping import cropping

    from segmentation.totalsegmentator_windows import predict_folder
    from segmentation.unpickling import forbid_unpickling

    forbid_unpickling()
    python_api.download_pretrained_weights = _keep_weights
    totalsegmentator.nnunet.nnUNetv2_predict = partial(predict_folder, pinned=pinned)
    # Holes do not change the box around what is not 0, and CT is normalised inside them, too.
    cropping.binary_fill_holes = lambda mask: mask
    # Instead of a copy of every image in float64, 1.4 GB for a whole body, that stays as long as the image does.
    nib.Nifti1Image.get_fdata = _voxels  # type: ignore[assignment, method-assign]
    # The images between TotalSegmentator and nnU-Net are .nii.gz by name; nobody keeps them, so nothing is compressed.
    nib.openers.Opener.default_compresslevel = 0


def find_organs(
    ct: Path, *, box: list[tuple[int, int]], least: list[int], organs: Path, task: str, device: str
) -> None:
    """Write the organ map of one CT.

    Args:
        ct: The CT, .nii.
        box: Lower and upper limit of the patient along each axis of the file, (x, y, z).
        least: The least size of the box in the network's voxels, along the axes to the left, to the front and upwards.
        organs: The map to write, .nii.
        task: `total`, `fast` or `fastest`.
        device: TotalSegmentator's word for it, `gpu` or `cpu`.
    """
    import nibabel as nib
    import totalsegmentator.nnunet
    from totalsegmentator import python_api

    from segmentation.totalsegmentator_resampling import BodyResampling

    image: Any = nib.load(ct)
    resampling = BodyResampling(box, shape_xyz=image.shape, affine=image.affine, least_ras=least)
    totalsegmentator.nnunet.change_spacing = resampling.change_spacing
    python_api.totalsegmentator(
        image,
        organs,
        task="total",
        fast=task == "fast",
        fastest=task == "fastest",
        ml=True,
        device=device,
        nr_thr_resamp=1,
        nr_thr_saving=1,
        quiet=True,
    )


def _voxels(image: Any, *_float64: object) -> Any:
    import numpy as np

    return np.asanyarray(image.dataobj)


def _leave_out_trainers() -> None:
    """Spare the import of nnU-Net's training, 2 s, which TotalSegmentator wants for tasks of other organs."""
    trainers = ModuleType("totalsegmentator.custom_trainers")
    for name in (
        "nnUNetTrainer_MOSAIC_1k_QuarterLR_NoMirroring",
        "nnUNetTrainerDiceTopK10Loss_2000epochs",
        "nnUNetTrainerSkeletonRecall",
    ):
        setattr(trainers, name, None)
    sys.modules[trainers.__name__] = trainers


def _keep_weights(task_id: int) -> None:
    """Instead of TotalSegmentator's downloader, which also deletes folders whose names it takes for old versions."""
    from totalsegmentator.config import get_weights_dir
    from totalsegmentator.map_tasks_config import TASK_ID_WEIGHTS_CONFIGS

    folder = get_weights_dir() / TASK_ID_WEIGHTS_CONFIGS[task_id]["foldername"]
    if not folder.is_dir():
        raise FileNotFoundError(f"TotalSegmentator's weights are missing: {folder}")


if __name__ == "__main__":
    main()
