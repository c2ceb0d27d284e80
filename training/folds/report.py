"""Folds for people: how alike they are beside random ones, what is in each, and a table of the patients."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from petct.case import Tracer
from petct.errors import CaseError
from petct.written_whole import written_whole
from training.folds.balance import RANDOM_ASSIGNMENTS, TraitBalance, assignment_of
from training.folds.patient_traits import PatientTraits
from training.folds.splits import Splits
from training.folds.traits import Trait

_NAME_WIDTH = 36
_SCAN_COLUMNS = ("ttb_ml", "lesions", "voxel_ml", "grid", "alone_share")


def balance_table(balances: Sequence[TraitBalance]) -> str:
    """Trait by trait, the largest deviation of a fold's mean from that of all patients, beside random folds."""
    lines = [
        "largest distance of a fold's mean from the mean of all, in standard deviations of the patients;",
        f"random: median and 5th percentile of {RANDOM_ASSIGNMENTS} random assignments; * ours is above that median",
        f"  {'':{_NAME_WIDTH}}{'ours':>8}{'random':>8}{'5 %':>8}",
    ]
    for balance in balances:
        name = balance.trait.name
        if balance.worst is None or balance.random_median is None or balance.random_best is None:
            lines.append(f"  {name:{_NAME_WIDTH}}{_constant(balance.trait)}")
            continue
        mark = " *" if balance.worst > balance.random_median else ""
        lines.append(
            f"  {name:{_NAME_WIDTH}}{balance.worst:8.3f}{balance.random_median:8.3f}{balance.random_best:8.3f}{mark}"
        )
    rows = [(b.worst, b.random_median, b.random_best) for b in balances]
    counted = np.array([row for row in rows if None not in row], dtype=float)
    if len(counted):
        means = "".join(f"{mean:8.3f}" for mean in counted.mean(axis=0))
        lines.append(f"  {f'mean of {len(counted)} traits':{_NAME_WIDTH}}{means}")
    return "\n".join(lines)


def fold_table(splits: Splits, *, names: Sequence[str], traits: Sequence[Trait]) -> str:
    """What is in each fold's val: number of patients, and the mean of each trait.

    Args:
        splits: The folds.
        names: Their patients.
        traits: The traits, with values in the order of the names.
    """
    home = assignment_of(splits, names=names)
    lines = [
        "means over each fold's val and over all; of volumes, lesions and voxels exp(mean of ln(1 + x)) - 1",
        f"  {'':{_NAME_WIDTH}}" + "".join(f"{f'fold {k}':>9}" for k in range(len(splits))) + f"{'all':>9}",
        f"  {'patients':{_NAME_WIDTH}}" + "".join(f"{len(fold.val):9d}" for fold in splits) + f"{len(names):9d}",
    ]
    for trait in traits:
        values = np.array(trait.values)
        groups = [*(values[home == fold] for fold in range(len(splits))), values]
        cells = "".join(f"{_shown_mean(group, is_log=trait.is_log):>9}" for group in groups)
        lines.append(f"  {trait.name:{_NAME_WIDTH}}{cells}")
    return "\n".join(lines)


def write_patients(patients: Sequence[PatientTraits], *, splits: Splits, file: Path) -> None:
    """Every patient as a line of CSV, with fold and traits; unknown shares are empty. Whole or not at all.

    Raises:
        CaseError: It cannot be written.
    """
    home = assignment_of(splits, names=[patient.name for patient in patients])
    columns = [f"{tracer.value}_{column}" for tracer in Tracer for column in _SCAN_COLUMNS]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(file) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["patient", "fold", *columns])
            for patient, fold in zip(patients, home.tolist(), strict=True):
                cells = [getattr(patient.scan(tracer), column) for tracer in Tracer for column in _SCAN_COLUMNS]
                writer.writerow([patient.name, fold, *cells])
    except OSError as error:
        raise CaseError(str(file), "table must be writable", error.strerror) from error


def _constant(trait: Trait) -> str:
    known = [value for value in trait.values if not np.isnan(value)]
    return f"    the same in all ({known[0]:g})" if known else "    unknown: no organ maps"


def _shown_mean(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]], *, is_log: bool) -> str:
    known = values[~np.isnan(values)]
    if not known.size:
        return "-"
    mean = float(known.mean())
    return f"{np.expm1(mean) if is_log else mean:.2f}"
