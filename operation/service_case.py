"""One case of a process that runs many: nothing of the case before reaches it, and it leaves nothing to the next."""

from __future__ import annotations

import logging
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from types import ModuleType

from operation.ending import Stopped
from petct.decisions import forget_decisions
from petct.errors import CaseError, one_line
from petct.memory import is_out_of_memory
from petct.stages import reset
from petct.temporary import temporary_folder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """How a case ended.

    Attributes:
        status: 201; 422 for a case that is refused; 500 for a failure of ours.
        line: The reason in one line.
        doubt: Why the process should run no further case; None when it may.
    """

    status: HTTPStatus
    line: str
    doubt: str | None = None


class CaseRunner:
    """Runs cases one after the other, all in one thread.

    Args:
        invoke: Runs the case that now lies in the input folder.
        clear: Takes back what a case that failed may have left in the output folder.
    """

    def __init__(self, invoke: Callable[[], None], *, clear: Callable[[], None]) -> None:
        self._invoke = invoke
        self._clear = clear
        self._folder: Path | None = None
        self._was_out_of_memory = False

    def run(self) -> Outcome:
        """Run a case; only `Stopped` comes through."""
        reset()
        forget_decisions()
        try:
            outcome = self._outcome()
        except BaseException:  # only a signal: what the case left goes, as after a refusal
            self._clear_output()
            raise
        if outcome.status is not HTTPStatus.CREATED:
            self._clear_output()
        return outcome

    def abandon(self) -> None:
        """Take away what the case that runs has written; for the end by force, from another thread."""
        folder = self._folder
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
            self._clear_output()

    def _outcome(self) -> Outcome:
        was_short = False
        try:
            with self._temporary_files():
                self._invoke()
            return Outcome(HTTPStatus.CREATED, "done")
        except Stopped:
            raise
        except CaseError as error:
            was_short = is_out_of_memory(error)  # found out while it ran, and nothing was left to give up
            return Outcome(HTTPStatus.UNPROCESSABLE_ENTITY, str(error), self._memory_doubt() if was_short else None)
        except BaseException as error:  # a library that would leave must not take the server with it
            log.exception("failed")
            was_short = is_out_of_memory(error)
            message = one_line(f"{type(error).__name__}: {error}")
            rule = "must fit in memory" if was_short else "must not fail on a case that passed all checks"
            line = f"inference: {rule}, got {message}"
            doubt = _cuda_doubt() or (self._memory_doubt() if was_short else None)
            return Outcome(HTTPStatus.INTERNAL_SERVER_ERROR, line, doubt)
        finally:
            self._was_out_of_memory = was_short

    def _memory_doubt(self) -> str | None:
        """Whether something holds memory from case to case: none was left for two of them."""
        return "memory must suffice, and has not for two cases in a row" if self._was_out_of_memory else None

    @contextmanager
    def _temporary_files(self) -> Iterator[None]:
        """A folder of the case's own for temporary files, gone with the case."""
        with temporary_folder("case-") as folder:
            before, tempfile.tempdir = tempfile.tempdir, str(folder)
            self._folder = folder
            try:
                yield
            finally:
                tempfile.tempdir = before
                self._folder = None

    def _clear_output(self) -> None:
        with suppress(Exception):  # the case's own failure is what there is to tell
            self._clear()


def _cuda_doubt() -> str | None:
    """Whether the GPU still computes: after some errors it refuses everything until the process ends."""
    torch = _torch()
    if torch is None or not torch.cuda.is_initialized():
        return None
    try:
        torch.ones(1, device="cuda").sum().item()
        torch.cuda.synchronize()
    except torch.OutOfMemoryError:
        return None
    except RuntimeError as error:
        return one_line(f"CUDA must still compute after a failure, got {str(error).splitlines()[0]}")
    return None


def _torch() -> ModuleType | None:
    """PyTorch, if anything has imported it."""
    return sys.modules.get("torch")
