"""What a fault is, what becomes of it, and what a run that it strikes leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from petct.case import Tracer
from petct.output import mask_file


class Outcome(StrEnum):
    """How a run may end."""

    REFUSED = "no mask, one line"
    MASKS = "both masks, correct"
    EITHER = "no mask and one line, or both masks"
    SILENT = "no mask"  # nobody is left to say why


class Where(StrEnum):
    """Where a fault can be brought about."""

    BOTH = "both"
    HOST = "host"
    CONTAINER = "container"


@dataclass(frozen=True)
class Place:
    """The folders of one run, as its user has them.

    Attributes:
        input: The case, in the platform's layout.
        models: Manifest and weights; a copy of this run's own.
        output: The output folder, with the masks of an earlier case in it.
        tmp: Temporary files and caches.
        marks: Where the injected fault leaves word.
    """

    input: Path
    models: Path
    output: Path
    tmp: Path
    marks: Path

    @property
    def marker(self) -> Path:
        """There as soon as the fault has struck."""
        return self.marks / "fired"

    def masks(self) -> dict[Tracer, Path]:
        """The masks under their names."""
        return {tracer: path for tracer in Tracer if (path := mask_file(self.output, tracer)).exists()}


@dataclass(frozen=True)
class Fault:
    """A fault.

    Attributes:
        name: What goes wrong.
        stage: When.
        outcome: What may become of it.
        inject: What `injected/sitecustomize.py` is told; "" for a fault that needs no injection.
        signals: Sent to the program when the fault has struck, one right after the other.
        react: Done from outside when the fault has struck, before the program may go on.
        prepare: Done to the run's folders before it starts.
        codes: Exit codes that are right; any but 0 when empty, unless there are masks.
        line: What the last line of stderr must hold, a regular expression.
        says: What the log must hold, a regular expression.
        finds_organs: Whether TotalSegmentator runs; otherwise the case has its organ maps.
        arguments: More options of the program.
        environment: More environment variables.
        shell: How a shell starts the program, with `exec "$@"` in it.
        docker: More options of `docker create`; a fault that has some strikes in a container only.
        where: Where it can be brought about.
        leaves_files: Whether temporary files may be left, because nobody is left to remove them.
        within_s: Seconds within which the program must be gone after the last signal.
        is_large: Whether the case is a phantom of the demo size with the demo networks; otherwise all is tiny.
    """

    name: str
    stage: str
    outcome: Outcome
    inject: str = ""
    signals: tuple[int, ...] = ()
    react: Callable[[Place], None] | None = None
    prepare: Callable[[Place], None] | None = None
    codes: tuple[int, ...] = ()
    line: str = ""
    says: str = ""
    finds_organs: bool = False
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    shell: str = ""
    docker: tuple[str, ...] = ()
    where: Where = Where.BOTH
    leaves_files: bool = False
    within_s: float | None = None
    is_large: bool = False

    @property
    def title(self) -> str:
        """Fault and stage in one line."""
        return f"{self.name}, {self.stage}"


@dataclass(frozen=True)
class Ended:
    """What is left of a run.

    Attributes:
        code: Exit code, as a shell reports it.
        stdout: The log.
        stderr: What went to stderr.
        seconds: From start to end.
        seconds_after_signal: From the last signal to the end; None without one.
        has_struck: Whether the fault did.
        has_hung: Whether it did not end by itself.
        files_left: Temporary files that are left, caches and the run record apart.
        processes_left: Processes of the run that are left.
    """

    code: int
    stdout: str
    stderr: str
    seconds: float
    seconds_after_signal: float | None
    has_struck: bool
    has_hung: bool
    files_left: tuple[str, ...]
    processes_left: tuple[str, ...]

    @property
    def last_line(self) -> str:
        """The last line of stderr that is not empty: all that the platform shows."""
        lines = [line for line in self.stderr.splitlines() if line.strip()]
        return lines[-1] if lines else ""
