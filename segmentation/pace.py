"""Who decides what of an ensemble is run: nobody, and all of it is; a record of an earlier run; or a clock.

`operation.deadline` has the one with the clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from petct.errors import CaseError
from petct.manifest import Mode, OrganSettings
from segmentation.fold_runs import Executed, FoldRun
from segmentation.packed_model import PackedModel
from segmentation.running import Running


class FoldGivenUp(Exception):  # noqa: N818 - it is no error
    """There is no time for the rest of a fold: what of it was computed is dropped."""


@dataclass(frozen=True)
class FoldTask:
    """One fold of a member on a scan.

    Attributes:
        tracer: The scan's tracer, by its name (PSMA).
        member: The member's name.
        fold: Which of its folds.
        number: Its place among all folds of the scan's ensemble in the order in which they are averaged, from 0.
    """

    tracer: str
    member: str
    fold: int
    number: int

    def __str__(self) -> str:
        return f"{self.tracer} {self.member} fold {self.fold}"


@dataclass(frozen=True)
class FoldWork:
    """What a fold's work is.

    Attributes:
        task: The fold.
        model: The member's model.
        rank: Its place among the member's folds, from 0.
        share: The member's weight as a fraction of all members' weights.
    """

    task: FoldTask
    model: PackedModel
    rank: int
    share: float

    @property
    def member(self) -> tuple[str, int]:
        """What tells its member from all others, of whatever name."""
        return self.task.tracer, self.task.number - self.rank


@dataclass(frozen=True)
class WindowTimes:
    """What a window of noise took.

    Attributes:
        open_s: Seconds to open the network.
        pass_s: Seconds of one pass.
    """

    open_s: float
    pass_s: float


@dataclass(frozen=True)
class Allowance:
    """How a fold may be run.

    Attributes:
        mirrorings: Most mirrorings; 0 if it is given up.
        next_mirrorings: When time may not be enough: windows are run one by one, from the highest uptake downwards, and
            this is asked before each with the number there were, for as many mirrorings as are allowed, or one and then
            no more, or 0 for the end; what is done is kept. None for all windows in nnU-Net's order.
        passed: Told before each call of the network how many passes there were; may raise `FoldGivenUp`.
    """

    mirrorings: int
    next_mirrorings: Callable[[int], int] | None = None
    passed: Callable[[int], None] | None = None


class ScanFolds(Protocol):
    """What a pace is told of one scan's ensemble, and tells it."""

    @property
    def name(self) -> str:
        """The tracer's name."""
        ...

    @property
    def voxels(self) -> int:
        """How many voxels the PET has."""
        ...

    @property
    def running(self) -> Running:
        """How its networks are run."""
        ...

    def folds(self) -> Sequence[FoldWork]:
        """Its folds, in the order in which they are averaged."""
        ...

    def windows(self, model: PackedModel, *, mode: Mode) -> int:
        """How many windows a fold of the model takes in a mode; too many, if anything, before `look`."""
        ...

    def mirrorings(self, model: PackedModel, *, mode: Mode) -> int:
        """How many mirrorings a model is asked for in a mode."""
        ...

    @property
    def has_looked(self) -> bool:
        """Whether windows in the present mode are counted exactly."""
        ...

    def look(self) -> None:
        """Find the body and what is needed, so that windows can be counted."""
        ...

    def time_window(self, work: FoldWork) -> WindowTimes:
        """Open a fold's network and run windows of noise."""
        ...

    def settle(self, *, mode: Mode, first: FoldTask | None) -> None:
        """Choose the mode, and the fold whose member is run first; before anything is made."""
        ...


class Pace(Protocol):
    """Decides what is run. `is_wanted` may be asked from another thread."""

    @property
    def is_hurried(self) -> bool:
        """Whether time is short, so that each scan's first fold comes before all others."""
        ...

    @property
    def executed(self) -> Executed:
        """What has been run so far."""
        ...

    def organ_settings(self, wanted: OrganSettings, *, scans: Sequence[ScanFolds], cts: int) -> OrganSettings:
        """How the organs of so many CTs are found: as is wanted, perhaps with a limit to the time of all together."""
        ...

    def begin(self, scans: Sequence[ScanFolds]) -> None:
        """Choose and settle what the scans' ensembles are to do, PSMA first."""
        ...

    def is_wanted(self, tasks: Iterable[FoldTask]) -> bool:
        """Whether any of the folds may still be run; once not, never again."""
        ...

    def allow(self, task: FoldTask) -> Allowance:
        """How a fold may be run now; asked once more after it was given up in the middle."""
        ...

    def done(self, run: FoldRun, *, task: FoldTask) -> None:
        """Keep that a fold has been run."""
        ...


_ALL = 1 << 30  # mirrorings


class Unhurried:
    """All that the manifest asks for, without looking at a clock."""

    is_hurried = False

    def __init__(self) -> None:
        self._mode = Mode.EXACT
        self._runs: list[FoldRun] = []

    @property
    def executed(self) -> Executed:
        """What has been run so far."""
        return Executed(self._mode, tuple(self._runs))

    def organ_settings(self, wanted: OrganSettings, *, scans: Sequence[ScanFolds], cts: int) -> OrganSettings:
        """As is wanted."""
        return wanted

    def begin(self, scans: Sequence[ScanFolds]) -> None:
        """Leave the scans' ensembles as they are."""
        self._mode = scans[0].running.mode

    def is_wanted(self, tasks: Iterable[FoldTask]) -> bool:
        """Always."""
        return True

    def allow(self, task: FoldTask) -> Allowance:
        """All mirrorings, all windows."""
        return Allowance(mirrorings=_ALL)

    def done(self, run: FoldRun, *, task: FoldTask) -> None:
        """Keep that a fold has been run."""
        self._runs.append(run)


class Replayed(Unhurried):
    """Exactly what an earlier run did, so that the masks are the same.

    Args:
        executed: What it did.
    """

    def __init__(self, executed: Executed) -> None:
        super().__init__()
        self._wanted = executed
        self._waiting: dict[str, deque[FoldRun]] = {}
        self._begun: FoldRun | None = None

    def begin(self, scans: Sequence[ScanFolds]) -> None:
        """Settle the mode, and what is run first, as they were.

        Raises:
            CaseError: A fold that was run is none of the ensembles'.
        """
        self._mode = self._wanted.mode
        for scan in scans:
            runs = self._wanted.of(scan.name)
            tasks = [work.task for work in scan.folds()]
            known = {(task.member, task.fold) for task in tasks}
            for run in runs:
                if (run.member, run.fold) not in known:
                    raise CaseError("replay", "folds must be those of the manifest's members", str(run))
            self._waiting[scan.name] = deque(runs)
            first = next((task for task in tasks if runs and _is_of(runs[0], task)), None)
            scan.settle(mode=self._mode, first=first)

    def is_wanted(self, tasks: Iterable[FoldTask]) -> bool:
        """Whether any of the folds was run."""
        return any(_is_of(run, task) for task in tasks for run in self._wanted.of(task.tracer))

    def allow(self, task: FoldTask) -> Allowance:
        """As it was run, or not at all."""
        waiting = self._waiting[task.tracer]
        if not waiting or not _is_of(waiting[0], task):
            return Allowance(mirrorings=0)
        self._begun = run = waiting.popleft()
        if not run.is_by_uptake:
            return Allowance(mirrorings=run.mirrorings)

        def next_mirrorings(done: int) -> int:
            if done < run.windows:
                return run.mirrorings
            return 1 if done < run.windows + run.windows_unmirrored else 0

        return Allowance(mirrorings=run.mirrorings, next_mirrorings=next_mirrorings)

    def done(self, run: FoldRun, *, task: FoldTask) -> None:
        """Keep that a fold has been run.

        Raises:
            CaseError: It was not run as it was before: the case, the manifest or the code is another one.
        """
        if run != self._begun:
            raise CaseError("replay", f"fold must run as it did: {self._begun}", str(run))
        super().done(run, task=task)


def _is_of(run: FoldRun, task: FoldTask) -> bool:
    return (run.tracer, run.member, run.fold) == (task.tracer, task.member, task.fold)
