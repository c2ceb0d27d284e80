"""`python -m benchmark organs`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from training.commands.arguments import count

HELP = "time TotalSegmentator's own command beside our way of running it, and compare the organ maps"
DEFAULT_MANIFEST = Path(__file__).resolve().parents[2] / "resources" / "demo.toml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--patients", type=Path, required=True, help="folder of train_XXXX, CTs as NIfTI")
    parser.add_argument("--names", nargs="+", help="some of them (all)")
    parser.add_argument("--json", type=Path, required=True, help="results go here; a file that is there is replaced")
    parser.add_argument("--manifest", type=Path, default=DEFAULT_MANIFEST, help="task and weights (demo.toml)")
    parser.add_argument("--repeats", type=count, default=3, help="rounds of one run of each way (%(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(%(default)s)")


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    import json
    import tempfile

    from benchmark.machine import describe_machine, package_versions
    from benchmark.organs import measure_patient, measured_ways
    from petct.errors import CaseError
    from petct.manifest import read_manifest
    from petct.written_whole import written_whole
    from training.commands.arguments import patient_folders

    if not options.json.resolve().parent.is_dir():
        raise CaseError("--json", "folder must exist", str(options.json.parent))
    folders = patient_folders(options.patients)
    if options.names:
        by_name = {folder.name: folder for folder in folders}
        if absent := [name for name in options.names if name not in by_name]:
            raise CaseError("--names", f"must be patients of {options.patients}", ", ".join(absent))
        folders = [by_name[name] for name in dict.fromkeys(options.names)]
    patients = []
    for folder in folders:
        with tempfile.TemporaryDirectory(prefix="organs_benchmark_") as work:
            patients.append(
                measure_patient(
                    folder,
                    manifest=options.manifest,
                    device=options.device,
                    repeats=options.repeats,
                    work=Path(work),
                )
            )
    ways = measured_ways(patients)
    results = {
        "task": read_manifest(options.manifest).organs.task.value,
        "device": options.device,
        "repeats": options.repeats,
        "machine": describe_machine(),
        "packages": {**package_versions(), "TotalSegmentator": _totalsegmentator_version()},
        "ways": ways,
        "patients": patients,
    }
    with written_whole(options.json) as partial:
        partial.write_text(json.dumps(results, indent=1), encoding="utf-8")
    print(table(ways))
    return 0


def table(ways: Sequence[Mapping[str, Any]]) -> str:
    """The ways as a Markdown table."""
    lines = [
        "| way | both CTs, s | stock / way | peak memory, MiB | lowest Dice | mean Dice | lowest equal share |",
        "|---|---|---|---|---|---|---|",
    ]
    for way in ways:
        lines.append(
            f"| {way['way']} | {way['wall_s']:.1f} | {way['ratio']:.2f} | {way['peak_host_mib']:.0f} | "
            f"{_number(way['lowest_dice'])} | {_number(way['mean_dice'])} | {_number(way['lowest_equal_fraction'])} |"
        )
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _totalsegmentator_version() -> str:
    from importlib.metadata import version

    return version("TotalSegmentator")
