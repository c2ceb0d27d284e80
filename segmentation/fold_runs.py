"""What of an ensemble was run on a case: as data, for the record of a run and for running the very same again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from petct.case import Tracer
from petct.errors import CaseError
from petct.manifest import Mode
from petct.typed_table import TypedTable

_WHERE = "fold runs"


@dataclass(frozen=True)
class FoldRun:
    """One fold of a member that was run on a scan.

    Attributes:
        tracer: The scan's tracer, by its name (PSMA).
        member: The member's name in the manifest.
        fold: Which of its folds.
        mirrorings: How many mirrorings windows are averaged over, at least one.
        windows: How many windows were run with so many.
        is_whole: Whether all windows that matter were run; what none of them saw counts as background.
        windows_unmirrored: How many more windows were run without mirrorings, after those.
        is_by_uptake: Whether windows were run one by one, from the highest uptake downwards, because time was short; in
            nnU-Net's order otherwise. The sum of the same windows differs in its last digits.
    """

    tracer: str
    member: str
    fold: int
    mirrorings: int
    windows: int
    is_whole: bool
    windows_unmirrored: int = 0
    is_by_uptake: bool = False

    def __str__(self) -> str:
        more = f" and {self.windows_unmirrored} without" if self.windows_unmirrored else ""
        part = "" if self.is_whole else ", those with the highest uptake"
        name = f"{self.tracer} {self.member} fold {self.fold}"
        return f"{name}: {self.windows} windows with {self.mirrorings} mirrorings{more}{part}"


@dataclass(frozen=True)
class Executed:
    """What was run on a case.

    Attributes:
        mode: The mode it was run in.
        fold_runs: The folds, in the order in which they were run. A tracer without any has an empty mask.
    """

    mode: Mode
    fold_runs: tuple[FoldRun, ...]

    def of(self, tracer: str) -> tuple[FoldRun, ...]:
        """The folds of one scan, in their order."""
        return tuple(run for run in self.fold_runs if run.tracer == tracer)

    def as_json(self) -> dict[str, Any]:
        """As an object for `json.dumps`; `read_executed` reads it."""
        return {
            "mode": self.mode.value,
            "fold_runs": [
                {
                    "tracer": run.tracer,
                    "member": run.member,
                    "fold": run.fold,
                    "mirrorings": run.mirrorings,
                    "windows": run.windows,
                    "is_whole": run.is_whole,
                    "windows_unmirrored": run.windows_unmirrored,
                    "is_by_uptake": run.is_by_uptake,
                }
                for run in self.fold_runs
            ],
        }


def read_executed(content: Any, *, where: str = _WHERE) -> Executed:
    """Read and check what `Executed.as_json` makes.

    Args:
        content: The object, as `json.loads` gives it.
        where: What errors call it.

    Raises:
        CaseError: A key is missing, unknown, or of the wrong kind or value.
    """
    if not isinstance(content, Mapping):
        raise CaseError(where, "must be a JSON object", type(content).__name__)
    table = TypedTable(dict(content), where=where)
    mode, entries = table.choice("mode", Mode), content.get("fold_runs")
    if not isinstance(entries, list):
        raise CaseError(where, "fold_runs must be a list", type(entries).__name__)
    if unknown := sorted(content.keys() - {"mode", "fold_runs"}):
        raise CaseError(where, "key is not known", unknown[0])
    runs = tuple(_read_run(entry, where=f"{where} {number}") for number, entry in enumerate(entries))
    return Executed(mode, runs)


def _read_run(entry: Any, *, where: str) -> FoldRun:
    if not isinstance(entry, Mapping):
        raise CaseError(where, "must be a JSON object", type(entry).__name__)
    table = TypedTable(dict(entry), where=where)
    run = FoldRun(
        tracer=table.text("tracer"),
        member=table.text("member"),
        fold=table.whole("fold"),
        mirrorings=table.whole("mirrorings"),
        windows=table.whole("windows"),
        is_whole=table.flag("is_whole"),
        windows_unmirrored=table.whole("windows_unmirrored"),
        is_by_uptake=table.flag("is_by_uptake"),
    )
    table.finish()
    if run.tracer not in {tracer.name for tracer in Tracer}:
        raise CaseError(where, "tracer must be PSMA or FDG", run.tracer)
    if run.mirrorings < 1:
        raise CaseError(where, "mirrorings must be >= 1", str(run.mirrorings))
    return run
