"""Measuring every variant of a study on patients, going on where an earlier run stopped."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch

from evaluation.runs import breakdown_of
from petct.errors import CaseError
from segmentation.organ_maps import OrganSource
from training.studies.ablation.patient import digest_of, measure_patient
from training.studies.ablation.rows import Row, read_rows, write_rows
from training.studies.ablation.variants import Study, Variant, variant_key

log = logging.getLogger(__name__)

# They log several lines per mask, and a patient has a hundred of them.
_TALKATIVE = ("inference", "postprocessing.refine")


@dataclass(frozen=True)
class Measured:
    """What is there of a study.

    Attributes:
        rows: Rows of the patients of whom every variant is measured.
        cases: Those patients.
        waiting: Patients who are not measured yet.
        refused: Why a patient could not be measured, one line each.
    """

    rows: tuple[Row, ...]
    cases: tuple[str, ...]
    waiting: tuple[str, ...]
    refused: tuple[str, ...]


def measure_patients(
    patients: Sequence[Path],
    *,
    study: Study,
    source: OrganSource,
    device: torch.device,
    processes: int,
    file: Path,
) -> Measured:
    """Measure what the table does not hold yet, writing it after each patient; one who is refused is left out.

    Args:
        patients: Patient folders with truth.
        study: What to measure.
        source: Where the study's organ maps come from.
        device: Where the networks run.
        processes: Patients measured at the same time, each in a process of its own.
        file: The table to go on from. Rows of anything else stay in it and are not used.

    Raises:
        CaseError: The table is of another kind or cannot be written, or a process died.
    """
    rows = read_rows(file)
    keys, refused = find_keys(patients, study=study, source=source)
    before = collect(keys, rows=rows)
    held = {row.key for row in rows}
    jobs = [
        (patient, [variant for key, variant in keys[patient].items() if key not in held])
        for patient in keys
        if patient.name in before.waiting
    ]
    log.info(
        "%d variants; %d of %d patients are measured, %d to do, %d refused",
        *(len(study.variants), len(before.cases), len(patients), len(jobs), len(refused)),
    )
    for number, (patient, outcome) in enumerate(
        _measure(jobs, study=study, source=source, device=device, processes=processes), start=1
    ):
        if isinstance(outcome, str):
            refused.append(_refusal(patient, outcome))
            log.warning("%s (%d of %d)", refused[-1], number, len(jobs))
        else:
            rows += outcome
            write_rows(rows, file)
            log.info("%s: %d variants measured (%d of %d)", patient.name, len(outcome), number, len(jobs))
    return collect(keys, rows=rows, refused=refused)


def find_keys(
    patients: Sequence[Path], *, study: Study, source: OrganSource
) -> tuple[dict[Path, dict[str, Variant]], list[str]]:
    """Each patient's variants by the keys of their rows, and why patients are refused whose files are not all there."""
    keys: dict[Path, dict[str, Variant]] = {}
    refused = []
    for patient in patients:
        try:
            digest = digest_of(patient)
        except CaseError as error:
            refused.append(_refusal(patient, error))
            log.warning("%s", refused[-1])
            continue
        keys[patient] = {
            variant_key(variant, study=study, organ_source=source.value, patient=digest): variant
            for variant in study.variants
        }
    return keys, refused


def collect(
    keys: Mapping[Path, Mapping[str, Variant]], *, rows: Sequence[Row], refused: Sequence[str] = ()
) -> Measured:
    """Pick a study's rows from a table; nothing is computed.

    Args:
        keys: Each patient's variants by the keys of their rows (`find_keys`).
        rows: All rows of the table.
        refused: Why patients are refused, by line.
    """
    held = {row.key: row for row in rows}
    cases = [patient for patient in keys if all(key in held for key in keys[patient])]
    refused_names = {line.partition(":")[0] for line in refused}
    return Measured(
        rows=tuple(held[key] for patient in cases for key in keys[patient]),
        cases=tuple(patient.name for patient in cases),
        waiting=tuple(p.name for p in keys if p not in cases and p.name not in refused_names),
        refused=tuple(refused),
    )


def _refusal(patient: Path, error: CaseError | str) -> str:
    return f"{patient.name}: {error}"


def _measure(
    jobs: Sequence[tuple[Path, Sequence[Variant]]],
    *,
    study: Study,
    source: OrganSource,
    device: torch.device,
    processes: int,
) -> Iterator[tuple[Path, list[Row] | str]]:
    """Each patient with its rows or why it has none, as they come."""
    workers = min(processes, len(jobs))
    if workers < 2:
        for patient, variants in jobs:
            yield patient, _attempt(patient, study=study, variants=variants, source=source, device=device)
        return
    threads = max((os.cpu_count() or 1) // workers, 1)
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start, initargs=(threads,))
    try:
        running = {
            pool.submit(_attempt, patient, study=study, variants=variants, source=source, device=device): patient
            for patient, variants in jobs
        }
        for done in as_completed(running):
            try:
                yield running[done], done.result()
            except BrokenProcessPool as error:
                rule = "processes must live to the end; with fewer of them each has more memory"
                raise CaseError("--processes", rule, f"one of {workers} that died") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start(threads: int) -> None:
    torch.set_num_threads(threads)


def _attempt(
    patient: Path, *, study: Study, variants: Sequence[Variant], source: OrganSource, device: torch.device
) -> list[Row] | str:
    """A patient's rows, or why it has none."""
    levels = {name: logging.getLogger(name).level for name in _TALKATIVE}
    try:
        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.WARNING)
        return measure_patient(patient, study=study, variants=variants, source=source, device=device)
    except CaseError as error:
        reason = str(error)
    except (RuntimeError, MemoryError) as error:  # memory that ran out for one patient may do for the next
        reason = breakdown_of(error)
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # here, as an exception's frames hold their tensors while it is handled
    return reason
