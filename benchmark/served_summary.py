"""What a server's life comes to: were all cases answered as they should, and did the memory grow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from statistics import linear_regression, mean

from benchmark.served import ServedCase

# Until then a process still takes what it keeps: compiled networks, thread pools, the C library's arenas.
SETTLED_AFTER = 10
_ENDS = 10  # how many cases the two ends of the curve are averaged over


@dataclass(frozen=True)
class Summary:
    """A server's life.

    Attributes:
        served: Good cases that were answered 201 with masks.
        good: Good cases.
        refused: Bad cases that were answered 422 and left no mask.
        bad: Bad cases.
        is_repeatable: Whether a case had the same masks each time.
        first_peak_mib: Mean peak of the first ten good cases after the tenth; None for fewer than 20.
        last_peak_mib: Mean peak of the last ten.
        growth_mib_per_case: Slope of a line through the memory held after each case from the eleventh on.
        threads: Most threads after a case, after the first.
        files: Most open files.
        temporary_files: Most temporary files.
    """

    served: int
    good: int
    refused: int
    bad: int
    is_repeatable: bool
    first_peak_mib: float | None
    last_peak_mib: float | None
    growth_mib_per_case: float | None
    threads: int
    files: int
    temporary_files: int

    @property
    def passes(self) -> bool:
        """Whether every case was answered as it should be, alike each time, and nothing was left in between."""
        all_right = self.served == self.good and self.refused == self.bad
        return all_right and self.is_repeatable and self.temporary_files == 0


def summarise(cases: Sequence[ServedCase]) -> Summary:
    """What the cases come to, at least one."""
    good, bad = [one for one in cases if one.is_good], [one for one in cases if not one.is_good]
    masks = {name: {one.masks_sha256 for one in good if one.name == name} for name in {one.name for one in good}}
    settled = cases[SETTLED_AFTER:]
    peaks = [one.peak_mib for one in good[SETTLED_AFTER:]]
    can_compare = len(peaks) >= _ENDS
    return Summary(
        served=sum(one.status == HTTPStatus.CREATED and one.masks_sha256 is not None for one in good),
        good=len(good),
        refused=sum(one.status == HTTPStatus.UNPROCESSABLE_ENTITY and one.masks_sha256 is None for one in bad),
        bad=len(bad),
        is_repeatable=all(len(found) == 1 for found in masks.values()),
        first_peak_mib=mean(peaks[:_ENDS]) if can_compare else None,
        last_peak_mib=mean(peaks[-_ENDS:]) if can_compare else None,
        growth_mib_per_case=(
            linear_regression([one.number for one in settled], [one.resident_mib for one in settled]).slope
            if len(settled) >= _ENDS
            else None
        ),
        threads=max(one.threads for one in cases[1:] or cases),
        files=max(one.files for one in cases),
        temporary_files=max(one.temporary_files for one in cases),
    )


def table(cases: Sequence[ServedCase], *, summary: Summary) -> str:
    """The memory curve of good cases, the first and every fifth, and what all come to, in Markdown."""
    lines = ["| case | answer | s | peak MiB | MiB afterwards |", "|---|---|---:|---:|---:|"]
    good = [one for one in cases if one.is_good]
    for one in good[:1] + good[4::5]:
        memory = f"{one.peak_mib:.0f} | {one.resident_mib:.0f}"
        lines.append(f"| {one.number}: {one.name} | {one.status} | {one.wall_s:.1f} | {memory} |")
    lines += [
        "",
        f"{summary.served} of {summary.good} good cases served, {summary.refused} of {summary.bad} bad ones refused; "
        f"{'the same masks' if summary.is_repeatable else 'OTHER MASKS'} each time; between cases at most "
        f"{summary.threads} threads, {summary.files} open files and {summary.temporary_files} temporary files.",
    ]
    if summary.first_peak_mib is not None:
        first, last = summary.first_peak_mib, summary.last_peak_mib
        lines.append(f"Mean peak of ten cases after the tenth: {first:.1f} MiB; of the last ten: {last:.1f} MiB.")
    if summary.growth_mib_per_case is not None:
        lines.append(f"Memory afterwards grows by {summary.growth_mib_per_case:+.3f} MiB per case after the tenth.")
    return "\n".join(lines)
