"""`python -m training pack`."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

HELP = "pack a recipe's networks into weights and a manifest"

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--nnunet", type=Path, required=True)
    parser.add_argument(
        "--base", type=Path, default=Path("resources/paper.toml"), help="thresholds and rules (%(default)s)"
    )
    parser.add_argument("--manifest", type=Path, required=True, help="to write; weights go beside it")
    parser.add_argument("--warning", default="", help="a line that every run with these weights logs")
    parser.add_argument("--overwrite", action="store_true", help="replace packed networks that are there")


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from training.networks.recipe import read_recipe
    from training.weights.pack_recipe import pack_recipe

    manifest = pack_recipe(
        read_recipe(options.recipe),
        nnunet=options.nnunet,
        base=options.base,
        manifest=options.manifest,
        warning=options.warning,
        overwrite=options.overwrite,
    )
    log.info("%s: %d PSMA and %d FDG members", manifest.path, len(manifest.psma.members), len(manifest.fdg.members))
    return 0
