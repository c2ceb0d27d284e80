"""What an ablation has measured, as lines of CSV that a later run goes on from."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from evaluation.metrics import Metrics
from petct.case import Tracer
from petct.errors import CaseError
from petct.written_whole import written_whole

_NUMBERS = tuple(field.name for field in fields(Metrics) if field.name != "notes")
_COUNTS = ("true_lesions", "found_lesions", "predicted_lesions", "false_lesions")
COLUMNS = ("case", "tracer", *_NUMBERS, "run", "repeat", "key", "note")
_NOTE_SEPARATOR = "; "


@dataclass(frozen=True)
class Row:
    """One variant of one patient's scan.

    Attributes:
        case: The patient.
        tracer: The scan.
        name: The variant's name.
        repeat: Which of the variant's repeats, or "".
        key: What the measurement depends on (`training.studies.ablation.variants.variant_key`).
        metrics: How well its mask agrees with the truth.
    """

    case: str
    tracer: Tracer
    name: str
    repeat: str
    key: str
    metrics: Metrics


def write_rows(rows: Sequence[Row], file: Path) -> None:
    """Write all rows; the file appears whole or not at all. An undefined metric is an empty cell.

    Raises:
        CaseError: It cannot be written.
    """
    try:
        with written_whole(file) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(COLUMNS)
            for row in rows:
                numbers = [getattr(row.metrics, name) for name in _NUMBERS]
                note = _NOTE_SEPARATOR.join(row.metrics.notes)
                writer.writerow([row.case, row.tracer.value, *numbers, row.name, row.repeat, row.key, note])
    except OSError as error:
        raise CaseError(str(file), "table must be writable", error.strerror) from error


def read_rows(file: Path) -> list[Row]:
    """The rows of an earlier run, with every digit; none when there is no file.

    Raises:
        CaseError: The file is not one of `write_rows`.
    """
    if not file.exists():
        return []
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise CaseError(str(file), "must be a table of the ablation", "other columns")
            return [_row(line, where=f"{file} line {reader.line_num}") for line in reader]
    except OSError as error:
        raise CaseError(str(file), "table must be readable", error.strerror) from error
    except UnicodeDecodeError as error:
        raise CaseError(str(file), "table must be UTF-8", str(error)) from error


def _row(line: dict[str, str], *, where: str) -> Row:
    try:
        numbers = {name: _number(line[name], is_count=name in _COUNTS) for name in _NUMBERS}
        notes = tuple(line["note"].split(_NOTE_SEPARATOR)) if line["note"] else ()
        return Row(
            case=line["case"],
            tracer=Tracer(line["tracer"]),
            name=line["run"],
            repeat=line["repeat"],
            key=line["key"],
            metrics=Metrics(**numbers, notes=notes),  # type: ignore[arg-type]
        )
    except (ValueError, TypeError, AttributeError) as error:  # a cell that is missing is None
        raise CaseError(where, "must be a line of the ablation's table", str(error)) from error


def _number(text: str, *, is_count: bool) -> float | int | None:
    if not text:
        return None
    return int(text) if is_count else float(text)
