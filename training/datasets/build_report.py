"""What was built, as a table."""

from __future__ import annotations

from collections.abc import Mapping

from training.datasets.descriptions import dataset_name
from training.datasets.provenance import DatasetProvenance


def report(built: Mapping[int, DatasetProvenance]) -> str:
    """A Markdown table of data sets and how many patients each has; those left out by name below it."""
    lines = [
        "| data set | patients | corrected | organs computed | left out | CT clipped to HU | sha256 |",
        "|---|---:|---:|---:|---:|---|---|",
    ]
    for number, made in built.items():
        clip = "no" if made.clip is None else f"{made.clip.low_hu:g} to {made.clip.high_hu:g}"
        lines.append(
            f"| {dataset_name(number)} | {len(made.patients)} | {len(made.corrected)} | {len(made.organs_computed)} "
            f"| {len(made.left_out)} | {clip} | {made.sha256[:12]} |"
        )
    left_out = sorted({name for made in built.values() for name in made.left_out})
    if left_out:
        lines += ["", f"left out: {', '.join(left_out)}"]
    return "\n".join(lines)
