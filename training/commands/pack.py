"""`python -m training pack`."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from petct.errors import CaseError
from petct.manifest import OrganTask

HELP = "pack a recipe's trained networks into weights, a manifest and the platform's model tarball"

log = logging.getLogger(__name__)


def one_line(text: str) -> str:
    """A text of one line, not empty."""
    if not text.strip() or len(text.splitlines()) != 1:
        raise argparse.ArgumentTypeError(f"must be one line, got {text!r}")
    return text.strip()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--nnunet", type=Path, required=True, help="folder with nnU-Net's three folders")
    parser.add_argument("--manifest", type=Path, required=True, help="<name>.toml to write; weights go to <name>/")
    parser.add_argument(
        "--base",
        type=Path,
        default=Path("resources/paper.toml"),
        help="manifest, fitted or not, to take thresholds, rules and refinement from (%(default)s)",
    )
    parser.add_argument(
        "--organs", type=Path, help="folder of TotalSegmentator's weights to take along (the base's, if it has them)"
    )
    parser.add_argument(
        "--organ-task",
        choices=[task.value for task in OrganTask],
        help="which of them: 1.5 mm, 3 mm or 6 mm (the base's)",
    )
    parser.add_argument("--half", action="store_true", help="store the weights as float16, half the size")
    parser.add_argument("--licence", type=one_line, default="not stated", help="of the weights, e.g. CC-BY-4.0")
    parser.add_argument("--warning", default="", help="a line that every run with these weights logs")
    parser.add_argument(
        "--allow-unknown-data",
        action="store_true",
        help="also pack networks whose data set has no provenance.json; their CT is taken as not clipped",
    )
    parser.add_argument("--case", type=Path, help="patient to try the packed ensemble on (a phantom)")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto", help="for the trial (%(default)s)")
    parser.add_argument("--tarball", type=Path, help="also write the platform's model tarball, <name>.tar.gz")
    parser.add_argument("--overwrite", action="store_true", help="replace the manifest, its weights and the tarball")


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from operation.setting import choose_device
    from training.networks.recipe import read_recipe
    from training.weights.pack_members import PackingChoices
    from training.weights.pack_recipe import OrganFolder, pack_recipe

    if options.organ_task and not options.organs:
        raise CaseError("--organ-task", "must come with --organs, the folder of TotalSegmentator's weights")
    organs = None
    if options.organs:
        organs = OrganFolder(options.organs, OrganTask(options.organ_task) if options.organ_task else None)
    manifest = pack_recipe(
        read_recipe(options.recipe),
        nnunet=options.nnunet,
        base=options.base,
        manifest=options.manifest,
        organs=organs,
        choices=PackingChoices(
            half=options.half, licence=options.licence, allow_unknown_data=options.allow_unknown_data
        ),
        warning=options.warning,
        case=options.case,
        device=choose_device(options.device),
        tarball=options.tarball,
        overwrite=options.overwrite,
    )
    log.info("%s: %d PSMA and %d FDG members", manifest.path, len(manifest.psma.members), len(manifest.fdg.members))
    if options.tarball:
        log.info("%s: %.1f MB", options.tarball, options.tarball.stat().st_size / 1e6)
    return 0
