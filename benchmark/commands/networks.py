"""`python -m benchmark networks`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from training.commands.arguments import count

HELP = "time windows of real-size networks with random weights, so that no trained weights are needed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--json", type=Path, required=True, help="measurements; what it holds already is not measured again"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(%(default)s)")
    parser.add_argument("--backend", choices=("torch", "openvino"), default="torch", help="(%(default)s)")
    parser.add_argument(
        "--architectures",
        nargs="+",
        choices=("plain", "resenc_m", "resenc_l"),
        default=["plain", "resenc_m", "resenc_l"],
        help="(all)",
    )
    parser.add_argument(
        "--organs",
        choices=("none", "binary"),
        default="none",
        help="how the networks see organs: 2 channels or 10 (%(default)s)",
    )
    parser.add_argument(
        "--precisions",
        nargs="+",
        choices=("float32", "float16", "bfloat16"),
        help="(float32 and, on CUDA, float16; with OpenVINO float32 and bfloat16)",
    )
    parser.add_argument("--mirrorings", type=count, nargs="+", default=[1, 8], help="per window, 1, 2, 4 or 8 (1 8)")
    parser.add_argument("--flips", type=count, nargs="+", help="mirrorings computed together (1; on CUDA 1, 2 and 4)")
    parser.add_argument("--windows", type=count, default=3, help="timed windows (%(default)s)")
    parser.add_argument("--warm-up", type=int, default=1, help="windows before them (%(default)s)")
    parser.add_argument("--threads", type=count, help="on the CPU (torch's own number)")
    parser.add_argument("--overwrite", action="store_true", help="measure all of it again")


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from benchmark.kept_rows import check_json
    from benchmark.network_runs import measure, plan_settings, table
    from petct.channels import OrganEncoding
    from petct.manifest import Architecture, Backend

    check_json(options.json)
    settings = plan_settings(
        [Architecture(name) for name in options.architectures],
        encoding=OrganEncoding(options.organs),
        backend=Backend(options.backend),
        device=options.device,
        precisions=options.precisions,
        mirrorings=options.mirrorings,
        flips=options.flips,
        windows=options.windows,
        warm_up=options.warm_up,
        threads=options.threads,
    )
    measured = measure(settings, file=options.json, overwrite=options.overwrite)
    print(table(measured))
    for line in measured.refused:
        print(line, file=sys.stderr)
    return 1 if measured.refused else 0
