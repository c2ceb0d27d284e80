"""Judging folders: which scans there are, and all of them in several processes."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import SimpleITK as sitk

from evaluation.folders import PredictionFiles, TruthFiles, find_patients, find_prediction, find_truth
from evaluation.judgement import LeftOut, Outcome, judge_scan
from petct.case import Tracer
from petct.errors import CaseError
from petct.folders import SCAN_FOLDERS

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScanTask:
    """One scan to judge.

    Attributes:
        case: The patient.
        tracer: The scan.
        truth: The truth's files; None when they are left out.
        predictions: The files of each run that has them.
        left_out: What cannot be judged because files are missing or doubled.
    """

    case: str
    tracer: Tracer
    truth: TruthFiles | None
    predictions: Mapping[str, PredictionFiles]
    left_out: tuple[LeftOut, ...]


def plan_scans(truth: Path, *, predictions: Mapping[str, Path], patients: Sequence[str] = ()) -> list[ScanTask]:
    """Every scan of the truth, with what each run has for it; no image is opened.

    A patient without a tracer's folder has no truth for it, and that scan is not judged; the log says so, as it does
    of predictions for patients that the truth does not hold.

    Args:
        truth: Folder of patients.
        predictions: Each run's folder of patients.
        patients: Names of the only ones to judge; none means all.

    Raises:
        CaseError: A folder holds no patients, or not the ones asked for.
    """
    cases = find_patients(truth)
    unknown = sorted(set(patients) - set(cases))
    if unknown:
        raise CaseError(str(truth), "must hold the patients asked for", f"no {', '.join(unknown)}")
    for run, folder in predictions.items():
        if not folder.is_dir():
            raise CaseError(
                str(folder), f"prediction {run} must be a folder", "a file" if folder.exists() else "nothing"
            )
        _log_extra(folder, cases=cases)
    tasks = []
    for case in cases:
        for tracer in Tracer:
            if patients and case not in patients:
                continue
            if (truth / case / SCAN_FOLDERS[tracer]).is_dir():
                tasks.append(_plan(truth, case=case, tracer=tracer, predictions=predictions))
            else:
                log.warning("%s: no folder %s in the truth, not judged", truth / case, SCAN_FOLDERS[tracer])
    return tasks


def judge_scans(tasks: Sequence[ScanTask], *, processes: int) -> list[Outcome]:
    """Judge scans, in the order given.

    A process holds one scan at a time: about 17 bytes per voxel, 1.8 GB for the challenge's largest.

    Args:
        tasks: As from `plan_scans`.
        processes: Scans judged at the same time; with 1 no other process is started.

    Raises:
        CaseError: A process died, most often because memory ran out.
    """
    outcomes: dict[int, Outcome] = {}
    if processes == 1 or len(tasks) < 2:
        for number, task in enumerate(tasks):
            outcomes[number] = judge_task(task)
            _log_progress(outcomes[number], done=len(outcomes), scans=len(tasks))
        return list(outcomes.values())
    with ProcessPoolExecutor(
        min(processes, len(tasks)), mp_context=get_context("spawn"), initializer=_start_worker
    ) as pool:
        futures = {pool.submit(judge_task, task): number for number, task in enumerate(tasks)}
        try:
            for future in as_completed(futures):
                outcomes[futures[future]] = future.result()
                _log_progress(future.result(), done=len(outcomes), scans=len(tasks))
        except BrokenProcessPool as error:
            rule = "every process must live to its end; fewer --processes need less memory"
            raise CaseError("evaluation", rule, "one that died") from error
    return [outcomes[number] for number in sorted(outcomes)]


def judge_task(task: ScanTask) -> Outcome:
    """Judge one scan; what was left out when it was planned stays left out, and a scan that breaks down is."""
    if task.truth is None or not task.predictions:
        return Outcome(task.case, task.tracer, (), task.left_out)
    try:
        outcome = judge_scan(task.truth, predictions=task.predictions)
    except (RuntimeError, MemoryError, ValueError, OSError) as error:
        # Memory that ran out, or an image that a library takes no more of: the other scans can be judged.
        where = str(task.truth.truth.path.parent)
        reason = str(CaseError(where, "scan must be possible to judge", breakdown_of(error)))
        return Outcome(task.case, task.tracer, (), (LeftOut(None, task.case, task.tracer, reason),))
    if any(one.run is None for one in outcome.left_out):  # no run is judged: that says it all
        return outcome
    return replace(outcome, left_out=(*task.left_out, *outcome.left_out))


def breakdown_of(error: BaseException) -> str:
    """An exception that is no refusal, in a line: its type and the first line of its message."""
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _plan(truth: Path, *, case: str, tracer: Tracer, predictions: Mapping[str, Path]) -> ScanTask:
    try:
        files = find_truth(truth, case=case, tracer=tracer)
    except CaseError as error:
        return ScanTask(case, tracer, None, {}, (LeftOut(None, case, tracer, str(error)),))
    found: dict[str, PredictionFiles] = {}
    left_out = []
    for run, folder in predictions.items():
        try:
            prediction = find_prediction(folder, case=case, tracer=tracer)
        except CaseError as error:
            left_out.append(LeftOut(run, case, tracer, str(error)))
            continue
        if prediction is None:
            missing = CaseError(str(folder / case / SCAN_FOLDERS[tracer] / "TTB.nii.gz"), "file is missing")
            left_out.append(LeftOut(run, case, tracer, str(missing), is_missing=True))
        else:
            found[run] = prediction
    return ScanTask(case, tracer, files, found, tuple(left_out))


def _log_extra(folder: Path, *, cases: Sequence[str]) -> None:
    held = {path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")}
    extra = sorted(held - set(cases))
    if extra:
        log.warning("%s: %d folders that the truth does not have, not judged: %s", folder, len(extra), ", ".join(extra))


def _log_progress(outcome: Outcome, *, done: int, scans: int) -> None:
    for warning in outcome.warnings:
        log.warning("%s", warning)
    log.info("%s %s (%d of %d)", outcome.case, outcome.tracer.name, done, scans)


def _start_worker() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)  # the processes share the cores
