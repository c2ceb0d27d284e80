"""`python -m benchmark growth`."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

from benchmark.commands.case import DEFAULT_MANIFEST, DEFAULT_WORK
from petct.errors import CaseError
from petct.manifest import Backend, Mode
from training.commands.arguments import count

log = logging.getLogger(__name__)

HELP = "how time and memory grow with voxels, members, folds and organ channels, in cold processes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--json", type=Path, required=True, help="results go here; a file that is there is replaced")
    parser.add_argument(
        "--tables",
        nargs="+",
        choices=("voxels", "members", "folds", "channels"),
        default=["voxels", "members", "folds", "channels"],
        help="(all four)",
    )
    parser.add_argument(
        "--voxels",
        nargs="+",
        default=["demo", "1", "4"],
        help="millions of voxels of each PET of a clinical phantom, e.g. 1 4 12 46 92, or demo (demo 1 4)",
    )
    parser.add_argument("--members", type=count, default=3, help="1 to so many per tracer (%(default)s)")
    parser.add_argument("--folds", type=count, default=2, help="1 to so many (%(default)s)")
    parser.add_argument("--case-dir", type=Path, help="case of all tables but that of voxels (the demo phantom)")
    parser.add_argument("--manifest", type=Path, default=DEFAULT_MANIFEST, help="whose networks (demo.toml)")
    parser.add_argument("--mode", choices=[mode.value for mode in Mode], default=Mode.BALANCED, help="(%(default)s)")
    parser.add_argument(
        "--backend", choices=[backend.value for backend in Backend], default=Backend.AUTO, help="(%(default)s)"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(%(default)s)")
    parser.add_argument("--repeats", type=count, default=3, help="runs of each point (%(default)s)")
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK, help="cases, manifests, runs (%(default)s)")


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code: 1 when a run failed."""
    from benchmark.cases import CaseName, describe_case, make_case
    from benchmark.growth import Quantity, run_points
    from benchmark.growth_points import Setup, channel_points, fold_points, member_points, voxel_points
    from benchmark.growth_tables import growth_json, growth_tables
    from benchmark.kept_rows import check_json
    from benchmark.machine import describe_machine, package_versions
    from benchmark.run_log import code_digest
    from petct.manifest import read_manifest
    from petct.written_whole import written_whole
    from training.networks.signals import exit_code, stoppable

    check_json(options.json)
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    setup = Setup(
        manifest=read_manifest(options.manifest),
        case=describe_case(options.case_dir, name=options.case_dir.resolve().name)
        if options.case_dir
        else make_case(CaseName.DEMO, work=work),
        mode=Mode(options.mode),
        device=options.device,
        backend=Backend(options.backend),
        work=work,
    )
    makers = {
        Quantity.VOXELS: lambda: voxel_points(options.voxels, setup=setup),
        Quantity.MEMBERS: lambda: member_points(options.members, setup=setup),
        Quantity.FOLDS: lambda: fold_points(options.folds, setup=setup),
        Quantity.CHANNELS: lambda: channel_points(setup=setup),
    }
    points = [point for quantity in dict.fromkeys(options.tables) for point in makers[Quantity(quantity)]()]
    if not points:
        raise CaseError(str(options.manifest), "must have a member to measure", "none")
    try:
        with stoppable():
            costs = run_points(points, repeats=options.repeats, work=work)
    except KeyboardInterrupt as stop:
        log.warning("stopped; the same command goes on from here")
        return exit_code(stop)
    content = {
        "command": "growth",
        "manifest": setup.manifest.name,
        "case": setup.case.name,
        "mode": options.mode,
        "backend": options.backend,
        "device": options.device,
        "repeats": options.repeats,
        "machine": describe_machine(),
        "versions": package_versions(),
        "code_sha256": code_digest(),
        **growth_json(costs),
    }
    with written_whole(options.json) as partial:
        partial.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    print(growth_tables(costs))
    return 1 if any(cost.error is not None for cost in costs) else 0
