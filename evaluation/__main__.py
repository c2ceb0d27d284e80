"""Judge runs by the challenge's metrics, and against each other when there are several."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from evaluation.comparison import compare_runs
from evaluation.judgement import Judgement
from evaluation.plots import PLOT_NAMES, draw_plots
from evaluation.ranking import rank_runs
from evaluation.runs import judge_scans, plan_scans
from evaluation.summary import summarise
from evaluation.tables import (
    comparison_table,
    left_out_table,
    ranking_table,
    region_table,
    summary_table,
    write_scans,
)
from petct.case import Tracer
from petct.errors import CaseError

log = logging.getLogger("evaluation")

EXPLANATION = """
Every sub-folder of --truth with PSMA/ or FDG/ is a patient: TTB (0 and 1 only), PET in SUV on the same grid, and if
there is one totseg_24 (TotalSegmentator v2 labels) for the table by region; .nii.gz, .nii or .mha. A prediction folder
holds the same patients with PSMA/TTB and FDG/TTB, or with the container's output (images/psma-pet-ttb/ttb.mha), and
perhaps TTB_probability beside TTB, by which lesions are then scored in the FROC plot.
What is missing or breaks a rule is named on stderr and left out, the others go on, and the exit code is 1.
An empty cell is a metric that is not defined; the column note says why, and means leave it out and say how many count.
"""


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stdout)
    try:
        return judge(options)
    except CaseError as error:
        print(error, file=sys.stderr)
        return 1


def judge(options: argparse.Namespace) -> int:
    """Judge, write the table and the plots, print the summary; returns the exit code.

    Raises:
        CaseError: Something is there already, a folder is not one of patients, or nothing could be judged.
    """
    predictions = name_runs(options.prediction)
    runs = list(predictions)
    _check_new([options.csv, *([options.plots / name for name in PLOT_NAMES] if options.plots else [])], options)
    tasks = plan_scans(options.truth, predictions=predictions, patients=options.patients)
    log.info("%d scans to judge, %d runs: %s", len(tasks), len(runs), ", ".join(runs))
    outcomes = judge_scans(tasks, processes=options.processes)
    judgements = [judgement for outcome in outcomes for judgement in outcome.judgements]
    left_out = [one for outcome in outcomes for one in outcome.left_out]
    if judgements:
        write_scans(judgements, file=options.csv)
        print_tables(judgements, runs=runs)
    print(f"\n{left_out_table(left_out, runs=runs, scans=len(tasks))}", flush=True)
    for one in left_out:
        print(one.reason, file=sys.stderr)
    if not judgements:
        raise CaseError(str(options.truth), "at least one scan must be judged", "none; no table is written")
    print(f"table: {options.csv}")
    if options.plots:
        for path in draw_plots(judgements, runs=runs, folder=options.plots):
            print(f"plot:  {path}")
    return 1 if left_out else 0


def print_tables(judgements: Sequence[Judgement], *, runs: Sequence[str]) -> None:
    """Print the summary of each run and tracer, and the comparison of runs."""
    summaries = [summarise(judgements, run=run, tracer=tracer) for run in runs for tracer in Tracer]
    held = [summary for summary in summaries if summary.patients]
    for summary in held:
        print(f"\n{summary_table(summary)}")
    for summary in held:
        print(f"\n{region_table(summary)}")
    for first, second in combinations(runs, 2):
        print(f"\n{comparison_table(compare_runs(judgements, first=first, second=second), first=first, second=second)}")
    if len(runs) > 1:
        ranking = rank_runs(judgements, runs=runs)
        print(f"\n{ranking_table(ranking)}" if ranking else "\nrank: there is no patient that all runs have")


def name_runs(texts: Sequence[str]) -> dict[str, Path]:
    """Folders of predictions by the name of their run, from `FOLDER` or `NAME=FOLDER`.

    Raises:
        CaseError: A name is there twice.
    """
    runs: dict[str, Path] = {}
    for text in texts:
        name, separator, folder = text.partition("=")
        if not separator or not name or Path(text).exists():
            folder = text
            name = Path(text).name or Path(text).resolve().name
        if name in runs:
            raise CaseError("--prediction", "runs must have different names, given as NAME=FOLDER", f"{name} twice")
        runs[name] = Path(folder)
    return runs


def _check_new(paths: Sequence[Path], options: argparse.Namespace) -> None:
    """Refuse now what would be refused after an hour's work."""
    for path in paths:
        if path.is_dir():
            raise CaseError(str(path), "must be a file", "a folder")
        if path.exists() and not options.overwrite:
            raise CaseError(str(path), "must not exist yet without --overwrite")
        held = next(parent for parent in path.absolute().parents if parent.exists())
        if not (held.is_dir() and os.access(held, os.W_OK | os.X_OK)):
            raise CaseError(str(path), "must lie in a folder that can be written to", f"{held} above it")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m evaluation",
        description=__doc__,
        epilog=EXPLANATION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--truth", type=Path, required=True, help="folder of patients with TTB and PET")
    parser.add_argument(
        "--prediction", action="append", required=True, metavar="[NAME=]FOLDER",
        help="a run's folder of patients with TTB; several times for a comparison",
    )  # fmt: skip
    parser.add_argument("--csv", type=Path, required=True, help="table to write, a line per patient, tracer and run")
    parser.add_argument("--plots", type=Path, help="folder for box plots, Bland-Altman plots and FROC curves")
    parser.add_argument("--patients", nargs="+", default=[], metavar="NAME", help="judge only these")
    parser.add_argument(
        "--processes", type=_count, default=min(4, os.cpu_count() or 1),
        help="scans judged at the same time, each up to 2 GB (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace a table and plots that are there")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number >= 1, got {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
