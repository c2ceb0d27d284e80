"""`python -m training folds`."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path

from petct.errors import CaseError
from training.commands.arguments import count, patient_folders

HELP = "share patients out to folds that are alike, the same for all data sets"
FOLDS = 5
SEED = 1

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--patients", type=Path, required=True, help="folder of train_XXXX with truth and organ maps")
    parser.add_argument("--nnunet", type=Path, required=True, help="folder for nnUNet_raw, _preprocessed and _results")
    parser.add_argument("--folds", type=count, help=f"how many ({FOLDS}, or as many as the splits given have)")
    parser.add_argument("--seed", type=count, default=SEED, help="another one gives other folds (%(default)s)")
    parser.add_argument("--splits", type=Path, help="use these splits, in nnU-Net's format, and show their balance")
    parser.add_argument("--leave-out", nargs="+", default=[], metavar="NAME", help="patients to leave out")
    parser.add_argument("--overwrite", action="store_true", help="replace folds that nothing was trained on")
    parser.add_argument("--csv", type=Path, help="also write every patient's fold and traits here")
    parser.add_argument("--processes", type=count, default=os.cpu_count(), help="patients measured at a time")


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from training.folds.balance import balanced_folds, measure_balance
    from training.folds.in_place import put_splits, restrict_splits
    from training.folds.left_out import left_out_everywhere
    from training.folds.patient_traits import measure_patients
    from training.folds.report import balance_table, fold_table, write_patients
    from training.folds.splits import read_splits
    from training.folds.traits import traits_of

    if options.csv and options.csv.exists() and not options.overwrite:
        raise CaseError(str(options.csv), "table is there already; --overwrite replaces it")
    folders = patient_folders(options.patients)
    if unknown := sorted(set(options.leave_out) - {folder.name for folder in folders}):
        raise CaseError("--leave-out", f"must be patients of {options.patients}", ", ".join(unknown))
    broken_before = left_out_everywhere(options.nnunet) & {folder.name for folder in folders}
    if broken_before:
        log.info("the data sets are without, and so are the folds: %s", ", ".join(sorted(broken_before)))
    left_out = sorted(broken_before.union(options.leave_out))
    kept = [folder for folder in folders if folder.name not in left_out]
    names = [folder.name for folder in kept]
    given = None
    if options.splits:
        given = restrict_splits(
            read_splits(options.splits), patients=names, left_out=left_out, where=str(options.splits)
        )
        if options.folds not in (None, len(given)):
            raise CaseError("--folds", f"must be {len(given)} as in {options.splits}, or not given", str(options.folds))
    number = len(given) if given else options.folds or FOLDS
    if not 1 < number <= len(names):
        raise CaseError("--folds", f"must be within 2 and the number of patients, {len(names)}", str(number))
    log.info("%d patients to measure, %d left out", len(kept), len(left_out))
    patients, broken = measure_patients(kept, organs=options.nnunet / "organs", processes=options.processes)
    if broken:
        measured = {patient.name for patient in patients}
        rule = "every patient must be measured, or be named by --leave-out"
        raise CaseError(str(options.patients), rule, "broken: " + " ".join(n for n in names if n not in measured))
    traits = traits_of(patients, folds=number)
    splits = given or balanced_folds(names, traits=traits, folds=number, seed=options.seed)
    put_splits(options.nnunet, splits, overwrite=options.overwrite)
    if options.csv:
        write_patients(patients, splits=splits, file=options.csv)
    balances = measure_balance(splits, names=names, traits=traits, seed=options.seed)
    print(f"\n{balance_table(balances)}\n\n{fold_table(splits, names=names, traits=traits)}")
    print(f"\n{len(splits)} folds of {len(names)} patients, {len(left_out)} left out")
    return 0
