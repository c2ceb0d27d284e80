"""`python -m training ablate`."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from petct.errors import CaseError
from training.commands.arguments import count, patient_folders

HELP = "measure what each part of the method does to the twelve metrics, and write a page of it"
PAPER = Path(__file__).resolve().parents[2] / "resources" / "paper.toml"
RECIPE = "training/recipes/ablation.toml"  # what makes the networks for --encodings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--patients", type=Path, required=True, help="folder of train_XXXX, none of them trained on")
    parser.add_argument(
        "--manifest", type=Path, default=Path("resources/demo.toml"), help="what is varied (%(default)s)"
    )
    parser.add_argument(
        "--encodings", type=Path, help=f"manifest of single networks, alike but for their organ encoding ({RECIPE})"
    )
    parser.add_argument("--refined", type=Path, help="manifest with a refinement to try beside the published one")
    parser.add_argument("--output", type=Path, required=True, help="Markdown page to write; figures go beside it")
    parser.add_argument(
        "--csv", type=Path, required=True, help="measurements; what it holds already is not measured again"
    )
    parser.add_argument(
        "--organs", choices=("given", "totalsegmentator"), default="totalsegmentator", help="(%(default)s)"
    )
    parser.add_argument("--true-organs", action="store_true", help="also compare with the true organ maps")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--processes", type=count, default=1, help="patients measured at the same time (%(default)s)")
    parser.add_argument("--page-only", action="store_true", help="measure nothing, write the page of what is there")
    parser.add_argument("--overwrite", action="store_true", help="replace the page and its figures")


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from operation.setting import choose_device
    from petct.manifest import read_manifest
    from segmentation.organ_maps import OrganSource
    from segmentation.weight_files import check_member_files
    from training.studies.ablation.questions import plan_study
    from training.studies.ablation.report import write_report
    from training.studies.ablation.rows import read_rows
    from training.studies.ablation.study import collect, find_keys, measure_patients

    if options.output.exists() and not options.overwrite:
        raise CaseError(str(options.output), "must not exist yet without --overwrite")
    for name, file in (("--csv", options.csv), ("--output", options.output)):
        if not file.resolve().parent.is_dir():
            raise CaseError(name, "folder must exist", str(file.parent))
    source = OrganSource(options.organs)
    if options.true_organs and source is OrganSource.GIVEN:
        raise CaseError("--true-organs", "must come with organs that are computed", "--organs given")
    patients = patient_folders(options.patients)
    published = read_manifest(PAPER).fdg.refinement
    fitted = read_manifest(options.refined).fdg.refinement if options.refined else None
    if options.refined and fitted is None:
        raise CaseError(options.refined.name, "manifest must have a refinement", "none")
    if published is None:
        raise CaseError(PAPER.name, "manifest must have a refinement", "none")
    study = plan_study(
        read_manifest(options.manifest),
        encodings=read_manifest(options.encodings) if options.encodings else None,
        published=published,
        fitted=fitted,
        has_true_organs=options.true_organs,
    )
    for member in {network: network.member for variant in study.variants for network, _ in variant.parts}.values():
        check_member_files(member)
    if options.page_only:
        keys, refused = find_keys(patients, study=study, source=source)
        measured = collect(keys, rows=read_rows(options.csv), refused=refused)
    else:
        measured = measure_patients(
            patients,
            study=study,
            source=source,
            device=choose_device(options.device),
            processes=options.processes,
            file=options.csv,
        )
    summary = f"{len(measured.cases)} of {len(patients)} patients measured, {len(measured.refused)} left out"
    if not measured.cases:
        for line in measured.refused:
            print(line, file=sys.stderr)
        raise CaseError(str(options.csv), "must hold every variant of one patient or more", summary)
    written = write_report(
        measured, study=study, setup=_setup(options), command=command_line(options), page=options.output
    )
    print("\n".join(str(path) for path in written))
    print(summary)
    for line in measured.refused:
        print(line, file=sys.stderr)
    return 1 if measured.refused else 0


def command_line(options: argparse.Namespace) -> str:
    """The command that makes the page again; a place outside the working folder by its name only."""
    words = ["python", "-m", "training", "ablate"]
    for name in ("patients", "manifest", "encodings", "refined", "organs", "output", "csv"):
        value = getattr(options, name)
        if value is not None:
            words += [f"--{name}", _shown(value) if isinstance(value, Path) else str(value)]
    if options.true_organs:
        words.append("--true-organs")
    if options.device != "cpu":
        words += ["--device", options.device]
    return shlex.join(words)


def _setup(options: argparse.Namespace) -> str:
    """The study's inputs in a sentence or two."""
    organs = "that come with the patients" if options.organs == "given" else "computed by TotalSegmentator"
    encodings = (
        f"single networks of each organ encoding are those of `{options.encodings.name}` (the recipe of "
        f"such a manifest is `{RECIPE}`; `python -m training dataset` makes its data sets, `train` its networks, and "
        "`pack` the manifest)"
        if options.encodings
        else "no single networks were given, so organ encodings are not compared"
    )
    return f"The reference is `{options.manifest.name}` as it is; {encodings}; organ maps are those {organs}."


def _shown(path: Path) -> str:
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return path.name
