"""`python -m training`: from phantoms or patients to packed weights."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from petct.errors import CaseError
from petct.manifest import Architecture, Checkpoint

log = logging.getLogger("training")


def main(arguments: list[str] | None = None) -> int:
    """Run one sub-command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_phantom(commands.add_parser("phantom", help="make phantom patients in the training set's layout"))
    _add_dataset(commands.add_parser("dataset", help="write, plan and preprocess nnU-Net data sets"))
    _add_train(commands.add_parser("train", help="train the networks of a recipe, going on where it was interrupted"))
    _add_pack(commands.add_parser("pack", help="pack a recipe's networks into weights and a manifest"))
    _add_pack_model(commands.add_parser("pack-model", help="pack one nnU-Net results folder and print its digests"))
    _add_judge(commands.add_parser("judge", help="run a manifest on patients with known truth and print Dice"))
    _add_picture(commands.add_parser("picture", help="draw patients with their truth and what a manifest finds"))
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stdout)
    try:
        options.run(options)
    except CaseError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def parse_seeds(text: str) -> tuple[int, ...]:
    """Seeds from `3`, `0-39` or `0-9,20,30-32`, each once."""
    seeds: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not first.isdecimal() or (last and not last.isdecimal()):
            raise argparse.ArgumentTypeError(f"seeds must look like 0-39 or 3,5,7, got {text!r}")
        if int(last or first) < int(first):
            raise argparse.ArgumentTypeError(f"seeds must rise within a range, got {part!r}")
        seeds.extend(range(int(first), int(last or first) + 1))
    if len(set(seeds)) != len(seeds):
        raise argparse.ArgumentTypeError(f"seeds must not repeat, got {text!r}")
    return tuple(seeds)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number >= 1, got {text!r}")
    return int(text)


def _add_phantom(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", choices=("demo", "clinical"), default="demo")
    parser.add_argument("--seeds", type=parse_seeds, required=True, help="e.g. 0-39; one patient per seed")
    parser.add_argument("--output", type=Path, required=True, help="folder for train_XXXX")
    parser.add_argument("--processes", type=_count, default=os.cpu_count())
    parser.set_defaults(run=_phantom)


def _phantom(options: argparse.Namespace) -> None:
    from training.phantoms import PhantomSize
    from training.phantoms.population import write_patients

    write_patients(options.seeds, size=PhantomSize(options.size), folder=options.output, processes=options.processes)


def _add_dataset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("numbers", type=int, nargs="+", help="801 802 901 902 921 922, or 298 for the organ network")
    parser.add_argument("--patients", type=Path, required=True, help="folder of train_XXXX")
    parser.add_argument("--nnunet", type=Path, required=True, help="folder for nnUNet_raw, _preprocessed and _results")
    parser.add_argument("--processes", type=_count, default=os.cpu_count())
    parser.set_defaults(run=_dataset)


def _dataset(options: argparse.Namespace) -> None:
    from training.datasets import dataset_name, write_dataset
    from training.planning import plan_and_preprocess, set_nnunet_folders

    patients = _patients(options.patients)
    for number in options.numbers:
        dataset_name(number)  # one that does not exist is refused before hours go into the others
    set_nnunet_folders(options.nnunet)
    for number in options.numbers:
        write_dataset(number, patients=patients, raw=options.nnunet / "nnUNet_raw", processes=options.processes)
        plan_and_preprocess(
            number,
            architectures=Architecture,
            preprocessed=options.nnunet / "nnUNet_preprocessed" / dataset_name(number),
            processes=options.processes,
        )


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--nnunet", type=Path, required=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=_count, help="CPU threads; two runs with one each beat one with two")
    parser.add_argument("--only", type=int, nargs="+", help="only these data sets of the recipe")
    parser.set_defaults(run=_train)


def _train(options: argparse.Namespace) -> None:
    import torch

    from inference import choose_device
    from training.planning import set_nnunet_folders
    from training.recipe import read_recipe
    from training.train import train_fold

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


def _add_pack(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--nnunet", type=Path, required=True)
    parser.add_argument(
        "--base", type=Path, default=Path("resources/paper.toml"), help="thresholds and rules (%(default)s)"
    )
    parser.add_argument("--manifest", type=Path, required=True, help="to write; weights go beside it")
    parser.add_argument("--warning", default="", help="a line that every run with these weights logs")
    parser.add_argument("--overwrite", action="store_true", help="replace packed networks that are there")
    parser.set_defaults(run=_pack)


def _pack(options: argparse.Namespace) -> None:
    from training.pack_recipe import pack_recipe
    from training.recipe import read_recipe

    manifest = pack_recipe(
        read_recipe(options.recipe),
        nnunet=options.nnunet,
        base=options.base,
        manifest=options.manifest,
        warning=options.warning,
        overwrite=options.overwrite,
    )
    log.info("%s: %d PSMA and %d FDG members", manifest.path, len(manifest.psma.members), len(manifest.fdg.members))


def _add_pack_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", type=Path, help="nnU-Net's <trainer>__<plans>__<configuration> folder")
    parser.add_argument("--folds", type=int, nargs="+", required=True)
    parser.add_argument("--checkpoint", choices=[checkpoint.value for checkpoint in Checkpoint], default="final")
    parser.add_argument("--output", type=Path, required=True, help="the packed model's folder")
    parser.add_argument("--half", action="store_true", help="store the weights as float16")
    parser.add_argument(
        "--clip", type=float, nargs=2, metavar=("LOW_HU", "HIGH_HU"), help="what the training data's CT was clipped to"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a packed model that is there")
    parser.set_defaults(run=_pack_model)


def _pack_model(options: argparse.Namespace) -> None:
    from petct.channels import ClipHU
    from training.pack import pack_model

    digests = pack_model(
        options.results,
        folds=options.folds,
        checkpoint=options.checkpoint,
        destination=options.output,
        half=options.half,
        clip=ClipHU(low_hu=options.clip[0], high_hu=options.clip[1]) if options.clip else None,
        provenance={},
        overwrite=options.overwrite,
    )
    print("# for the member's sha256 table in the manifest")
    for file, digest in digests.items():
        print(f'"{file}" = "{digest}"')


def _add_judge(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--patients", type=Path, required=True, help="folder of train_XXXX with truth and organ maps")
    parser.add_argument("--manifest", type=Path, default=Path("resources/demo.toml"), help="(%(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--csv", type=Path, help="also write every score here")
    parser.set_defaults(run=_judge)


def _judge(options: argparse.Namespace) -> None:
    from inference import choose_device
    from petct.manifest import read_manifest
    from training.judge import judge, table, write_csv

    if options.csv and not options.csv.resolve().parent.is_dir():
        raise CaseError("--csv", "folder must exist", str(options.csv.parent))
    patients = _patients(options.patients)
    scores = judge(patients, manifest=read_manifest(options.manifest), device=choose_device(options.device))
    print(table(scores))
    if options.csv:
        write_csv(scores, options.csv)


def _add_picture(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--patients", type=Path, required=True, help="folder of train_XXXX with truth")
    parser.add_argument("--names", nargs="+", required=True, help="one to four of them")
    parser.add_argument("--manifest", type=Path, default=Path("resources/demo.toml"), help="(%(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--output", type=Path, required=True, help="PNG to write")
    parser.set_defaults(run=_picture)


def _picture(options: argparse.Namespace) -> None:
    from inference import choose_device
    from petct.manifest import read_manifest
    from training.picture import draw_found

    draw_found(
        [options.patients / name for name in options.names],
        manifest=read_manifest(options.manifest),
        device=choose_device(options.device),
        file=options.output,
    )


def _patients(folder: Path) -> list[Path]:
    patients = sorted(path for path in folder.glob("train_*") if path.is_dir())
    if not patients:
        raise CaseError(str(folder), "must hold patients named train_XXXX", "none")
    return patients


if __name__ == "__main__":
    sys.exit(main())
