"""`python -m training picture`."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "draw patients with their truth and what a manifest finds"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--patients", type=Path, required=True, help="folder of train_XXXX with truth")
    parser.add_argument("--names", nargs="+", required=True, help="one to four of them")
    parser.add_argument("--manifest", type=Path, default=Path("resources/demo.toml"), help="(%(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--output", type=Path, required=True, help="PNG to write")


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from operation.setting import choose_device
    from petct.manifest import read_manifest
    from training.studies.picture import draw_found

    draw_found(
        [options.patients / name for name in options.names],
        manifest=read_manifest(options.manifest),
        device=choose_device(options.device),
        file=options.output,
    )
    return 0
