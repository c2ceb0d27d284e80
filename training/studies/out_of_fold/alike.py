"""Out-of-fold predictions that were all made alike: only then do they say something of one way to predict."""

from __future__ import annotations

from pathlib import Path

from petct.errors import CaseError
from training.studies.out_of_fold.record import CaseRecord, read_records


def read_alike_records(oof: Path) -> dict[str, CaseRecord]:
    """The records of all patients of an out-of-fold folder, by name, in the order of their names.

    Raises:
        CaseError: There are none, one is malformed, or they were not made alike: two patients of a fold with other
            networks, rules or organs, or two folds with networks of other names or with other rules.
    """
    records = read_records(oof)
    first_of_fold: dict[int, CaseRecord] = {}
    for record in records.values():
        first = first_of_fold.setdefault(record.fold, record)
        if record.made_with != first.made_with:
            rule = "patients of a fold must be predicted with the same networks, rules and organs"
            raise CaseError(f"{oof} fold {record.fold}", rule, f"{first.case} and {record.case}, made differently")
    one, *others = first_of_fold.values()
    for other in others:
        for name, is_same, values in (
            ("networks of the same names", one.members == other.members, (one.members, other.members)),
            ("the same limits and regrowing", one.rules == other.rules, (one.rules, other.rules)),
        ):
            if not is_same:
                got = f"{values[0]} for {one.case}, {values[1]} for {other.case}"
                where = f"{oof} folds {one.fold} and {other.fold}"
                raise CaseError(where, f"all folds must be predicted with {name}", got)
    return records
