"""The program that runs TotalSegmentator, in a process of its own because TotalSegmentator changes its process.

It calls sys.exit, sets nnU-Net's environment variables and replaces nnU-Net's functions. The caller
(`segmentation.totalsegmentator`) sets TOTALSEG_WEIGHTS_PATH and TOTALSEG_HOME_DIR, holds this program's standard input
open while it wants an answer, and judges the organ map that this program writes. It imports nothing of ours.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_GONE_STATUS = 3


def main() -> None:
    """Read the command line and write the organ map."""
    parser = argparse.ArgumentParser(description="Run TotalSegmentator on one CT, without any network connection.")
    parser.add_argument("--ct", type=Path, required=True, help="the CT in HU, .nii")
    parser.add_argument("--organs", type=Path, required=True, help="the label map to write, .nii")
    parser.add_argument("--task", choices=("total", "fast", "fastest"), required=True)
    parser.add_argument("--device", choices=("gpu", "cpu"), required=True)
    options = parser.parse_args()
    threading.Thread(target=_leave_with_caller, daemon=True).start()
    forbid_network()
    _find_organs(options.ct, organs=options.organs, task=options.task, device=options.device)


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


def _find_organs(ct: Path, *, organs: Path, task: str, device: str) -> None:
    import torch

    if device == "gpu" and not torch.cuda.is_available():
        # TotalSegmentator itself would go on, on the CPU, without an error.
        raise RuntimeError("TotalSegmentator must run on the GPU, but CUDA is not available to it")
    # nnU-Net computes with as many threads as it thinks there are export workers, and reads that number on import.
    os.environ["nnUNet_def_n_proc"] = str(torch.get_num_threads())

    from totalsegmentator import python_api

    # nnU-Net's paths must be set before it is imported, and TotalSegmentator's replacements come with this import;
    # ours must come after them.
    python_api.setup_nnunet()
    import totalsegmentator.nnunet  # noqa: F401
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    nnUNetPredictor.predict_from_files = _predict_in_this_process
    LabelManager.convert_logits_to_segmentation = _highest_logits
    python_api.download_pretrained_weights = _keep_weights

    python_api.totalsegmentator(
        ct,
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


def _keep_weights(task_id: int) -> None:
    """Instead of TotalSegmentator's downloader, which also deletes folders whose names it takes for old versions."""
    from totalsegmentator.config import get_weights_dir
    from totalsegmentator.map_tasks_config import TASK_ID_WEIGHTS_CONFIGS

    folder = get_weights_dir() / TASK_ID_WEIGHTS_CONFIGS[task_id]["foldername"]
    if not folder.is_dir():
        raise FileNotFoundError(f"TotalSegmentator's weights are missing: {folder}")


def _predict_in_this_process(
    predictor: Any, folder_in: str, folder_out: str, *, save_probabilities: bool, overwrite: bool, **_workers: object
) -> Any:
    """Instead of nnU-Net's prediction with worker processes.

    Those get the image through /dev/shm, where 64 MiB may be all there is, and each holds the logits of all labels
    once more.
    """
    # TotalSegmentator has already resampled the image to the network's voxel size, so that the logits are resampled to
    # their own shape; this option spares the copy that is made for it.
    # Given a folder instead of files, nnU-Net forks twelve processes to list it.
    images = [[str(path)] for path in sorted(Path(folder_in).glob("*_0000.nii.gz"))]
    return predictor.predict_from_files_sequential(
        images, folder_out, save_probabilities, overwrite, use_cropped_logits_resampling=True
    )


def _highest_logits(_label_manager: Any, logits: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Label of the highest logit, slice by slice, because numpy copies everything that it is asked about at once.

    At 3 mm the logits of a whole body take up to 5 GB.
    """
    _, *shape = logits.shape
    labels = np.empty(shape, dtype=np.uint8)
    for number in range(len(labels)):
        labels[number] = logits[:, number].argmax(axis=0)
    return labels


if __name__ == "__main__":
    main()
