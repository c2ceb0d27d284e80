"""When memory runs out in the middle of a run: the same work again with less, step by step, before it is given up."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import torch

from petct.decisions import decide
from petct.errors import CaseError, one_line
from petct.memory import gib, is_gpu_out_of_memory, is_out_of_memory, memory_budget

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)

_LONGEST_REASON = 160
_MOST_CAUSES = 20


@dataclass(frozen=True)
class Relief:
    """What was done so that less memory is taken.

    Attributes:
        chosen: What is done from now on, for the log.
        is_loss: Whether that changes results or where they are computed.
    """

    chosen: str
    is_loss: bool = False


# Takes less memory from now on, and says how; None where there is nothing to give up.
Remedy = Callable[[], Relief | None]


class Reliefs:
    """Does work again with less memory whenever there was none left. Each remedy is asked once.

    Args:
        where: What the work belongs to, for the log and the error ("member plain_802 fold 0").
        on_gpu: Remedies for a full GPU, the cheapest first.
        on_host: Remedies for the host's memory, the cheapest first.
    """

    def __init__(self, where: str, *, on_gpu: Sequence[Remedy], on_host: Sequence[Remedy]) -> None:
        self._where = where
        self._on_gpu = list(on_gpu)
        self._on_host = list(on_host)

    def run(self, work: Callable[[], T], *, what: str) -> T:
        """The result of work that may be done more than once.

        Args:
            work: The work.
            what: What the work is, for the log and the error ("network").

        Raises:
            CaseError: There is too little memory whatever is given up.
        """
        while True:
            try:
                return work()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                is_gpu = is_gpu_out_of_memory(error)
                reason = one_line(f"{type(error).__name__}: {error}")[:_LONGEST_REASON]
                failure = without_frames(error)
            release_unused()
            relief = self._relief(what, is_gpu=is_gpu)
            if relief is None:
                raise out_of_memory(f"{self._where}: {what}", is_gpu=is_gpu) from failure
            release_unused()
            place = "the GPU" if is_gpu else "the host"
            because = f"{what} found no memory left on {place} ({reason})"
            decide(f"{self._where} memory", relief.chosen, because=because, is_loss=relief.is_loss)

    def _relief(self, what: str, *, is_gpu: bool) -> Relief | None:
        try:
            return _first(self._on_gpu if is_gpu else self._on_host)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            # What leaves a GPU takes room on the host.
            failure, is_gpu = without_frames(error), is_gpu_out_of_memory(error)
        raise out_of_memory(f"{self._where}: {what}", is_gpu=is_gpu) from failure


def without_frames(error: E) -> E:
    """An error that says that memory is short, without the frames it came through: they hold what it is short of."""
    let_go: BaseException | None = error
    for _ in range(_MOST_CAUSES):
        if let_go is None:
            break
        let_go.__traceback__ = None
        let_go = let_go.__cause__ or let_go.__context__
    return error


def out_of_memory(where: str, *, is_gpu: bool) -> CaseError:
    """The refusal of a case that is too large for what memory there is."""
    if is_gpu:
        return CaseError(where, "must fit in the GPU's memory", f"{_gpu_free()} free")
    budget = memory_budget()
    return CaseError(where, "must fit in memory", f"{gib(budget.free_bytes)} left by {budget.limited_by}")


def release_unused() -> None:
    """Give back what nothing uses any more: cycles of objects, CUDA's cache, the C library's free memory."""
    gc.collect()
    if torch.cuda.is_initialized():
        with suppress(RuntimeError):  # after an error of its own CUDA may refuse even this
            torch.cuda.empty_cache()
    with suppress(OSError, AttributeError):  # another C library has no such function
        ctypes.CDLL(None).malloc_trim(0)


def _first(remedies: list[Remedy]) -> Relief | None:
    while remedies:
        relief = remedies.pop(0)()
        if relief is not None:
            return relief
    return None


def _gpu_free() -> str:
    if not torch.cuda.is_initialized():
        return "nothing"
    with suppress(RuntimeError):
        return gib(torch.cuda.mem_get_info()[0])
    return "an unknown amount"
