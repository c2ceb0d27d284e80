"""TotalSegmentator's process: started in an environment of its own, waited for, and never left behind."""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from petct.errors import CaseError
from petct.temporary import why_unwritable

LOGGER = logging.getLogger(__name__)

_LAST_LINES = 3
_LAST_CHARACTERS = 600
_END_S = 5.0  # a process that has closed its end of the pipe has ended, or is about to


class RunningChild:
    """The program that runs TotalSegmentator, killed with all its kin when the context is left.

    Args:
        command: The program and its arguments; `--answers` and the number of a file descriptor are added.
        folder: Where it may write.
        weights: Folder of TotalSegmentator's weights.
        wheres: Whose CTs it has, for the log.
    """

    def __init__(self, command: Sequence[str], *, folder: Path, weights: Path, wheres: Sequence[str]) -> None:
        self._output = folder / "output.txt"
        self._wheres = ", ".join(wheres)
        self._answers, theirs = os.pipe()
        try:
            with self._output.open("wb") as stream:
                self._process = subprocess.Popen(
                    [*command, "--answers", str(theirs)],
                    env=_environment(folder, weights),
                    # The child leaves when its standard input ends, so that it does not outlive this process.
                    stdin=subprocess.PIPE,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    pass_fds=(theirs,),
                    # A group to kill, in the session of its caller, who is measured or watched as a whole.
                    process_group=0,
                )
        except OSError as error:
            os.close(self._answers)
            raise CaseError(self._wheres, f"TotalSegmentator must be startable in {folder}", error.strerror) from error
        except BaseException:
            os.close(self._answers)
            raise
        finally:
            os.close(theirs)

    def __enter__(self) -> RunningChild:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()
        for line in self._lines():
            LOGGER.debug("%s: TotalSegmentator: %s", self._wheres, line)

    def wait_for_answer(self, *, where: str, timeout_s: float) -> None:
        """Wait until the next map is written.

        Args:
            where: Whose map it is, for the error.
            timeout_s: How long to wait.

        Raises:
            CaseError: The process ended first, or the time is up.
        """
        deadline_s = time.monotonic() + timeout_s
        answer = b""
        while not answer.endswith(b"\n"):
            ready, _, _ = select.select([self._answers], [], [], max(0.0, deadline_s - time.monotonic()))
            if not ready:
                raise CaseError(where, f"TotalSegmentator must finish within {timeout_s:g} s, and was stopped")
            letter = os.read(self._answers, 1)  # one by one: the next answer may already be there
            if not letter:
                self._refuse_end(where)
            answer += letter

    def _refuse_end(self, where: str) -> None:
        try:
            status = self._process.wait(timeout=_END_S)
        except subprocess.TimeoutExpired:
            raise CaseError(where, "TotalSegmentator must answer, and closed its answers") from None
        if status == 0:
            raise CaseError(where, "TotalSegmentator must write an organ map, and did not")
        end = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        last = " | ".join(self._lines()[-_LAST_LINES:])[-_LAST_CHARACTERS:]
        if (reason := why_unwritable(self._output.parent)) is not None:  # its own words may not have found room
            last = f"{reason} in {self._output.parent}"
        raise CaseError(where, "TotalSegmentator must end without an error", f"{end}: {last or 'no output'}")

    def _lines(self) -> list[str]:
        try:
            text = self._output.read_text(encoding="utf-8", errors="replace")
        except OSError:  # the folder has gone; what else went wrong is worth more than its words
            return []
        return [line.strip() for line in text.splitlines() if line.strip()]

    def _end(self) -> None:
        """Kill whatever is left of the process and its kin."""
        with suppress(ProcessLookupError):
            # The group outlives its leader as long as one of its processes runs.
            os.killpg(self._process.pid, signal.SIGKILL)
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait()
        os.close(self._answers)


def _environment(folder: Path, weights: Path) -> dict[str, str]:
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
