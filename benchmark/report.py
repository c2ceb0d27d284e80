"""The benchmark's tables, in Markdown, out of its JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_UNKNOWN = "-"  # not measured; never an estimate
_LEGEND = """\
Seconds are medians of cold processes (lowest to highest); ratios are the reference's median over ours, of runs that
took turns. Network: the sliding windows alone; non-network: all else of the wall time. Host memory: the highest of all
rounds, of all processes of a run together, pages that they share counted once. `nnunet` is what `nnUNetv2_predict` does
beside its sliding windows: start, read, preprocess, resample back, write. Not measured: -."""

Summary = Mapping[str, Any]


def render(summaries: Sequence[Summary]) -> str:
    """The whole report: where it was measured, totals and ratios of all cases, then the stages of each.

    Args:
        summaries: What `benchmark.summary.summarise` made, one per case; at least one.
    """
    parts = []
    for place in dict.fromkeys(_machine_line(summary) for summary in summaries):
        there = [summary for summary in summaries if _machine_line(summary) == place]
        parts += [place, speed_table(there), agreement_table(there)]
        parts += [f"{_case_line(summary)}\n\n{stage_table(summary)}" for summary in there]
    failures = [line for summary in summaries for line in failure_lines(summary)]
    parts.append(_LEGEND)
    return "\n\n".join([*parts, *(["\n".join(failures)] if failures else [])]) + "\n"


def speed_table(summaries: Sequence[Summary]) -> str:
    """Seconds, ratios and memory: a row for the reference way and for every mode of every case."""
    head = (
        "case",
        "way",
        "total, s",
        "ratio",
        "non-network, s",
        "ratio",
        "network, s",
        "ratio",
        "host, MiB",
        "GPU, MiB",
    )
    rows = []
    for summary in summaries:
        for who, part in _ways(summary):
            cells = [summary["case"]["name"], who]
            for name in ("total", "non_network", "network"):
                cells += [_spread(part, name), _number(part.get(f"ratio_{name}"), digits=1, sign="x")]
            rows.append([*cells, _number(part["peak_host_mib"]), _number(part["peak_gpu_mib"])])
    return _table(head, rows)


def agreement_table(summaries: Sequence[Summary]) -> str:
    """How far every mode's masks are from those that they are compared with, per tracer."""
    head = (
        "case",
        "way",
        "compared with",
        "tracer",
        "Dice",
        "voxels that differ",
        "fraction",
        "TTB, mL",
        "it should be, mL",
    )
    rows = []
    for summary in summaries:
        for mode, part in summary["modes"].items():
            for tracer, difference in (part["tracers"] or {"psma": None, "fdg": None}).items():
                known = difference or {}
                cells = [summary["case"]["name"], mode, summary["compared_with"] or _UNKNOWN, tracer.upper()]
                cells += [_dice(difference), _number(known.get("differing_voxels"))]
                cells += [_fraction(known.get("differing_voxel_fraction"))]
                cells += [_number(known.get(key), digits=2) for key in ("volume_ml", "expected_volume_ml")]
                rows.append(cells)
    return _table(head, rows)


def stage_table(summary: Summary) -> str:
    """Median seconds per stage; stages of different threads may overlap, and `unaccounted` is what no stage covers."""
    ways = list(_ways(summary))
    names = dict.fromkeys(name for _, part in ways for name in part["stages_s"])
    rows = [[name, *(_number(part["stages_s"].get(name), digits=1) for _, part in ways)] for name in names]
    rows.append(["unaccounted", *(_number(_unaccounted_s(part), digits=1) for _, part in ways)])
    rows.append(["total", *(_number(part["median_s"]["total"], digits=1) for _, part in ways)])
    return _table(("stage, s", *(who for who, _ in ways)), rows)


def failure_lines(summary: Summary) -> list[str]:
    """What failed, one line each; empty when nothing did."""
    lines = []
    for who, part in _ways(summary):
        where = f"{summary['case']['name']}, {who}"
        if part["failed_runs"]:
            lines.append(f"- {where}: failed: {part['error']}")
        if part.get("comparison_error"):
            lines.append(f"- {where}: masks not compared: {part['comparison_error']}")
    return lines


def _ways(summary: Summary) -> list[tuple[str, Mapping[str, Any]]]:
    reference = [] if summary["reference"] is None else [("reference", summary["reference"])]
    return [*reference, *summary["modes"].items()]


def _unaccounted_s(part: Mapping[str, Any]) -> float | None:
    total_s = part["median_s"]["total"]
    return None if total_s is None or not part["stages_s"] else total_s - sum(part["stages_s"].values())


def _machine_line(summary: Summary) -> str:
    machine, versions = summary["machine"], summary["versions"]
    processor = f"{machine['cpu']}, {machine['cores']} cores ({', '.join(machine['cpu_flags'])})"
    packages = ", ".join(f"{name} {version}" for name, version in versions.items() if version is not None)
    threads = ", ".join(f"{name}={value}" for name, value in machine["thread_variables"].items())
    line = f"{processor}, {machine['memory_mib'] / 1024:.0f} GiB, GPU: {machine['gpu'] or 'none'}. {packages}."
    return line + (f" {threads}." if threads else "")


def _case_line(summary: Summary) -> str:
    scans = [
        f"{tracer.upper()} PET {_grid(scan['pet'])}, CT {_grid(scan['ct'])}"
        for tracer, scan in summary["case"]["scans"].items()
    ]
    rounds = f"{summary['repeats']} rounds" if summary["repeats"] > 1 else "1 round"
    return (
        f"Case `{summary['case']['name']}`, manifest `{summary['manifest']['name']}`, {summary['device']}, {rounds}: "
        f"{'; '.join(scans)}."
    )


def _grid(grid: Mapping[str, Sequence[float]]) -> str:
    shape = " x ".join(str(size) for size in grid["shape_zyx"])
    return f"{shape} voxels of {' x '.join(f'{size:g}' for size in grid['spacing_mm_zyx'])} mm"


def _spread(part: Mapping[str, Any], name: str) -> str:
    middle, low, high = (part[f"{what}_s"][name] for what in ("median", "min", "max"))
    if middle is None:
        return _UNKNOWN
    return f"{middle:.1f}" if part["good_runs"] < 2 else f"{middle:.1f} ({low:.1f} to {high:.1f})"


def _dice(difference: Mapping[str, Any] | None) -> str:
    if difference is None:
        return _UNKNOWN
    return "both empty" if difference["dice"] is None else f"{difference['dice']:.5f}"


def _fraction(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:.1e}"


def _number(value: float | None, *, digits: int = 0, sign: str = "") -> str:
    return _UNKNOWN if value is None else f"{value:.{digits}f}{sign}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
