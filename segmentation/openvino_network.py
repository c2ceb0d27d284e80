"""A fold's network on a CPU with OpenVINO, which computes it faster than PyTorch does."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch

from petct.errors import CaseError
from segmentation.openvino_cache import default_cache
from segmentation.openvino_conversion import convert_all, read_or_convert
from segmentation.openvino_norms import sum_in_blocks
from segmentation.openvino_package import is_available, load_core, load_openvino, runs_bf16
from segmentation.packed_model import PackedModel
from segmentation.short_memory import Relief

__all__ = [
    "ComputePrecision",
    "OpenVinoNetwork",
    "convert_all",
    "default_cache",
    "is_available",
    "runs_bf16",
    "side_by_side",
]

# Windows that are computed side by side share nothing but the weights. For small ones that is 8 % faster than all
# threads on one window; for real ones (112 x 192 x 112 and 32 features, 2 cores) it takes 2 to 6 % more CPU time, and
# each takes 1.2 GB in float32 (ResEnc-L, 160 x 288 x 160: 3.7 GB). So as many as fit in this are computed at once, but
# one at least.
_SIDE_BY_SIDE_BYTES = 512 << 20
# Measured: a window takes 3.9 times its first stage's features, and the largest array, which joins those with the
# decoder's, is twice as large as they are.
_LARGEST_ARRAYS_PER_WINDOW = 2
_LARGEST_PER_FIRST_STAGE = 2
# No call brings more windows than one with its mirrorings.
_WINDOWS_PER_CALL = 8


class ComputePrecision(StrEnum):
    """What the network computes with, however its weights are stored."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"

    @property
    def openvino_name(self) -> str:
        """OpenVINO's name for it."""
        return "f32" if self is ComputePrecision.FLOAT32 else "bf16"

    @property
    def itemsize(self) -> int:
        """Bytes of one number."""
        return 4 if self is ComputePrecision.FLOAT32 else 2


class OpenVinoNetwork:
    """One fold's network, compiled for windows of one size. To be used by one thread at a time.

    Args:
        compiled: An openvino `CompiledModel` with one input and one output.
        compile_single: Compiles the same for one window at a time.

    Attributes:
        at_once: How many windows to hand in at a time, so that all threads are busy.
    """

    def __init__(self, compiled: Any, *, compile_single: Callable[[], Any]) -> None:
        self._window_shape = tuple(compiled.input(0).shape)[1:]
        self._compile_single = compile_single
        self._open(compiled)

    def _open(self, compiled: Any) -> None:
        requests = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        self._queue: Any = load_openvino().AsyncInferQueue(compiled, requests)
        # Twice as many as are computed side by side: at the end of a call all wait for the last.
        self.at_once: int = 1 if requests == 1 else 2 * requests

    @classmethod
    def compile(
        cls,
        model: PackedModel,
        *,
        fold: int,
        precision: ComputePrecision,
        cache: Path | None,
        windows_at_once: int | None = None,
    ) -> OpenVinoNetwork:
        """Compile one fold's network, for as many threads as PyTorch uses.

        Args:
            model: The member's model.
            fold: One of the member's folds.
            precision: What to compute with.
            cache: Folder of converted networks, `default_cache()`; None for none.
            windows_at_once: Most windows to compute side by side; None for as many as are faster.

        Raises:
            CaseError: The fold's weights are missing or are not the network's, or this CPU does not compute bfloat16.
        """
        if precision is ComputePrecision.BFLOAT16 and not runs_bf16():
            raise CaseError(f"{model.where} fold {fold}", "CPU must compute bfloat16 by itself", "none that does")

        def compiled(most: int | None) -> Any:
            return _compile(read_or_convert(model, fold=fold, cache=cache), precision=precision, most=most)

        return cls(compiled(windows_at_once), compile_single=lambda: compiled(1))

    def go_one_by_one(self) -> Relief | None:
        """Compute one window at a time from now on."""
        if self.at_once == 1:
            return None
        self.close()
        self._open(self._compile_single())
        return Relief("one window at a time")

    def close(self) -> None:
        """Give back its memory, before another fold's network takes as much; it computes no more."""
        self._queue = None

    def leave_gpu(self) -> Relief | None:
        """Nothing: it runs on the CPU."""
        return None

    def __call__(self, windows: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Logits of windows, in their order.

        Args:
            windows: Each (channel, and three axes) of the plans' patch size, float32, on the CPU.

        Returns:
            Each float32 (class, and three axes).

        Raises:
            ValueError: A window has another shape or type.
        """
        for window in windows:
            if tuple(window.shape) != self._window_shape or window.dtype is not torch.float32:
                wanted = f"float32 {self._window_shape} (channel and three axes)"
                raise ValueError(f"windows must be {wanted}, got {window.dtype} {tuple(window.shape)}")
        inputs = [window.contiguous().numpy()[None] for window in windows]
        logits: dict[int, torch.Tensor] = {}

        def keep(request: Any, number: int) -> None:
            # The request writes its next window's logits to the same place.
            logits[number] = torch.from_numpy(request.get_output_tensor(0).data[0].copy())

        self._queue.set_callback(keep)
        try:
            for number, array in enumerate(inputs):
                self._queue.start_async({0: array}, number, share_inputs=True)
        finally:
            self._queue.wait_all()  # whatever happens, for requests read the inputs
        return [logits.pop(number) for number in range(len(inputs))]  # what the callback holds is empty again


def _compile(graph: Any, *, precision: ComputePrecision, most: int | None) -> Any:
    """A fold's graph for as many threads as PyTorch uses, and for so many windows side by side at most."""
    if precision is ComputePrecision.FLOAT32:
        sum_in_blocks(graph)
    together = min(_side_by_side(graph, precision=precision), most or _WINDOWS_PER_CALL)
    properties = {
        # OpenVINO's own choice is bfloat16 where the CPU has it, without a word.
        "INFERENCE_PRECISION_HINT": precision.openvino_name,
        "PERFORMANCE_HINT": "LATENCY" if together == 1 else "THROUGHPUT",
        "PERFORMANCE_HINT_NUM_REQUESTS": together,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        # Other threads and processes of ours compute on the same cores, and the scheduler places them better.
        "ENABLE_CPU_PINNING": False,
    }
    return load_core().compile_model(graph, "CPU", properties)


def side_by_side(first_stage_bytes: int) -> int:
    """How many windows are computed at the same time, at most.

    Args:
        first_stage_bytes: What the first stage's features of one window take.
    """
    return _fitting(_LARGEST_PER_FIRST_STAGE * first_stage_bytes)


def _side_by_side(graph: Any, *, precision: ComputePrecision) -> int:
    """The same, out of a network's graph."""
    largest = max(math.prod(output.shape) for node in graph.get_ops() for output in node.outputs())
    return _fitting(largest * precision.itemsize)


def _fitting(largest_bytes: int) -> int:
    """How many windows are computed at the same time, by the largest array of one."""
    window_bytes = _LARGEST_ARRAYS_PER_WINDOW * largest_bytes
    return int(min(max(_SIDE_BY_SIDE_BYTES // window_bytes, 1), _WINDOWS_PER_CALL))
