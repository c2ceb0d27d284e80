"""`nnUNetv2_predict` with a stop-watch on its sliding windows; all else is nnU-Net's own entry point.

Like the script that nnU-Net installs it imports the entry point and calls it, and its worker processes import it again.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor, predict_entry_point

from benchmark.unpacked import MEASURED_VARIABLE


def main() -> None:
    """Run nnU-Net's command with this process's arguments, then write what was measured."""
    seconds: list[float] = []
    # nnU-Net calls it once per fold.
    nnUNetPredictor.predict_sliding_window_return_logits = timed(
        nnUNetPredictor.predict_sliding_window_return_logits, seconds=seconds
    )
    predict_entry_point()
    is_cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    peak_gpu_mib = torch.cuda.max_memory_reserved() / 2**20 if is_cuda else None
    measured = {"network_s": sum(seconds), "folds": len(seconds), "peak_gpu_mib": peak_gpu_mib}
    Path(os.environ[MEASURED_VARIABLE]).write_text(json.dumps(measured), encoding="utf-8")


def timed(predict: Callable[..., Any], *, seconds: list[float]) -> Callable[..., Any]:
    """The same function, whose wall seconds are appended to a list, the GPU's work included."""

    def watched(*arguments: Any, **options: Any) -> Any:
        started_s = time.perf_counter()
        result = predict(*arguments, **options)
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started_s)
        return result

    return watched


if __name__ == "__main__":
    main()
