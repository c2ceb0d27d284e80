"""`python -m training train`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from petct.errors import CaseError
from training.commands.arguments import count

HELP = "train the networks of a recipe, going on where it was interrupted"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--nnunet", type=Path, required=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=count, help="CPU threads; two runs with one each beat one with two")
    parser.add_argument("--only", type=int, nargs="+", help="only these data sets of the recipe")


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    import torch

    from inference import choose_device
    from training.datasets.planning import set_nnunet_folders
    from training.networks.recipe import read_recipe
    from training.networks.train import train_fold

    networks = read_recipe(options.recipe)
    numbers = {network.dataset for network in networks}
    if unknown := set(options.only or ()) - numbers:
        rule = f"must be data sets of the recipe, which has {', '.join(map(str, sorted(numbers)))}"
        raise CaseError("--only", rule, ", ".join(map(str, sorted(unknown))))
    set_nnunet_folders(options.nnunet)
    # One process: its loader is cheap without augmentation, and a second one takes the core that the network needs.
    os.environ["nnUNet_n_proc_DA"] = "0"
    if options.threads:
        torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    for network in networks:
        if options.only and network.dataset not in options.only:
            continue
        for fold in network.folds:
            train_fold(network, fold=fold, nnunet=options.nnunet, device=device)
    return 0
