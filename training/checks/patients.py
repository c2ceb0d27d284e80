"""Checking patients before anything is trained on them: each in a process of its own, none stops the others."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from petct.case import Tracer
from petct.folders import SCAN_FOLDERS
from training.checks.findings import Finding, Findings, Severity, has_error
from training.checks.registration import check_registration
from training.checks.scan import check_scan
from training.processes import in_processes

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PatientCheck:
    """What checking one patient gave.

    Attributes:
        patient: The patient's folder name.
        findings: What is wrong.
        pet_digests: sha256 over the voxels of each PET that could be read.
    """

    patient: str
    findings: tuple[Finding, ...]
    pet_digests: dict[Tracer, str]


def check_patients(patients: Sequence[Path], *, processes: int, corrected: Path | None = None) -> list[Finding]:
    """Check patients of the training set's layout; whatever is wrong with one, the others are checked too.

    Args:
        patients: The patients' folders.
        processes: Patients checked at the same time.
        corrected: A folder of corrected annotations by patient, to be checked too.

    Returns:
        What is wrong, in the order of the patients.
    """
    checks = []
    job = partial(check_patient, corrected=corrected)
    for number, (patient, check) in enumerate(in_processes(job, patients, processes=processes), start=1):
        if isinstance(check, Exception):
            check = PatientCheck(patient.name, (_unforeseen(patient.name, check),), {})
        errors = sum(finding.severity is Severity.ERROR for finding in check.findings)
        said = f"{errors} errors, {len(check.findings) - errors} warnings" if check.findings else "fine"
        log.info("%s: %s (%d of %d)", patient.name, said, number, len(patients))
        checks.append(check)
    doubled = _doubled(checks)
    return [finding for check in checks for finding in (*check.findings, *doubled.get(check.patient, ()))]


def check_patient(patient: Path, *, corrected: Path | None = None) -> PatientCheck:
    """Check every file of one patient.

    Args:
        patient: The patient's folder.
        corrected: A folder of corrected annotations by patient.
    """
    findings = Findings(patient.name)
    scans = {tracer: check_scan(patient, tracer=tracer, corrected=corrected, findings=findings) for tracer in Tracer}
    cts = {tracer: scan.ct for tracer, scan in scans.items() if scan.ct is not None}
    # Without one of the folders there is nothing to register, and it is named already.
    if all((patient / name).is_dir() for name in SCAN_FOLDERS.values()):
        check_registration(patient, cts=cts, findings=findings)
    digests = {tracer: scan.pet_digest for tracer, scan in scans.items() if scan.pet_digest}
    return PatientCheck(patient.name, tuple(findings.found), digests)


def _unforeseen(patient: str, error: Exception) -> Finding:
    got = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return Finding(patient, "", "patient must be readable", got, Severity.ERROR)


def _doubled(checks: Sequence[PatientCheck]) -> dict[str, list[Finding]]:
    """The same PET twice: as both tracers of a patient, or in two, of whom one would train and the other validate."""
    first: dict[str, str] = {}
    findings: dict[str, list[Finding]] = {}
    for check in checks:
        for tracer, digest in check.pet_digests.items():
            place = f"{check.patient} {SCAN_FOLDERS[tracer]}/PET"
            if digest in first:
                finding = Finding(
                    check.patient,
                    f"{SCAN_FOLDERS[tracer]}/PET",
                    "PET must be there once",
                    f"the voxels of {first[digest]}",
                    Severity.ERROR,
                )
                findings.setdefault(check.patient, []).append(finding)
            first.setdefault(digest, place)
    return findings


def broken_patients(findings: Sequence[Finding]) -> tuple[str, ...]:
    """The patients with an error, in the order of their names."""
    names = {finding.patient for finding in findings}
    return tuple(sorted(name for name in names if has_error([f for f in findings if f.patient == name])))
