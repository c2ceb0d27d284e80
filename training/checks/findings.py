"""What is wrong with patients' files: one line each, collected without stopping at the first."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import ParamSpec, TypeVar

from petct.errors import CaseError
from petct.written_whole import written_whole

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Severity(StrEnum):
    """An error would train a network on something wrong, or stop it; a warning is only worth a look."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        patient: The patient's folder name.
        file: The file in it (`FDG/CT.nii.gz`).
        rule: What must hold.
        got: What was found instead, with its unit; "" when the rule says it all.
        severity: How bad it is.
    """

    patient: str
    file: str
    rule: str
    got: str
    severity: Severity

    def line(self) -> str:
        """The finding in one line, like any refusal."""
        return str(CaseError(f"{self.patient} {self.file}", self.rule, self.got or None))


class Findings:
    """Collects what is wrong with one patient.

    Args:
        patient: The patient's folder name.
    """

    def __init__(self, patient: str) -> None:
        self.patient = patient
        self.found: list[Finding] = []

    def add(self, file: str, rule: str, got: str = "", *, severity: Severity = Severity.ERROR) -> None:
        """Note one finding."""
        self.found.append(Finding(self.patient, file, " ".join(rule.split()), " ".join(got.split()), severity))

    def warn(self, file: str, rule: str, got: str = "") -> None:
        """Note a warning."""
        self.add(file, rule, got, severity=Severity.WARNING)

    def attempt(
        self, function: Callable[Arguments, Result], *arguments: Arguments.args, **named: Arguments.kwargs
    ) -> Result | None:
        """Call a function of the product's; its refusal becomes an error, and what it logs of `petct` a warning.

        Returns:
            What the function returns, or None when it refuses.
        """
        return self._attempt(Severity.WARNING, lambda: function(*arguments, **named))

    def attempt_strictly(
        self, function: Callable[Arguments, Result], *arguments: Arguments.args, **named: Arguments.kwargs
    ) -> Result | None:
        """The same, where what the product only warns of makes a case unfit for training."""
        return self._attempt(Severity.ERROR, lambda: function(*arguments, **named))

    def _attempt(self, severity: Severity, call: Callable[[], Result]) -> Result | None:
        with _warnings_of_product() as records:
            try:
                result = call()
            except CaseError as error:
                self.add(error.where, error.rule, error.got or "")
                result = None
        for file, text in records:
            self.add(file, text, severity=severity)
        return result


@contextmanager
def _warnings_of_product() -> Iterator[list[tuple[str, str]]]:
    """What `petct` logs as warnings meanwhile, as file and text, instead of in the log."""
    records: list[tuple[str, str]] = []
    handler = logging.Handler(logging.WARNING)

    def keep(record: logging.LogRecord) -> None:
        file, _, text = record.getMessage().partition(": ")
        records.append((file, text))

    handler.emit = keep  # type: ignore[method-assign]
    logger = logging.getLogger("petct")
    propagated = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield records
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagated


def has_error(findings: Sequence[Finding]) -> bool:
    """Whether one of them is an error."""
    return any(finding.severity is Severity.ERROR for finding in findings)


def table(findings: Sequence[Finding]) -> str:
    """The findings as a Markdown table, errors of a patient before its warnings."""
    lines = ["| patient | file | | rule | got |", "|---|---|---|---|---|"]
    for finding in sorted(findings, key=lambda f: (f.patient, f.severity)):
        cells = (finding.patient, finding.file, finding.severity, finding.rule, finding.got)
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines)


def summary(findings: Sequence[Finding], *, patients: int) -> str:
    """`38 of 40 patients are fine, 1 has warnings, 1 is broken`."""
    broken = {finding.patient for finding in findings if finding.severity is Severity.ERROR}
    suspicious = {finding.patient for finding in findings} - broken
    fine = patients - len(broken) - len(suspicious)
    parts = [f"{fine} of {patients} patients {'is' if fine == 1 else 'are'} fine"]
    if suspicious:
        parts.append(f"{len(suspicious)} {'has' if len(suspicious) == 1 else 'have'} warnings")
    if broken:
        parts.append(f"{len(broken)} {'is' if len(broken) == 1 else 'are'} broken")
    return ", ".join(parts)


def write_csv(findings: Sequence[Finding], file: Path) -> None:
    """Every finding as a line of CSV; whole or not at all."""
    with written_whole(file) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow([field.name for field in fields(Finding)])
        writer.writerows(astuple(finding) for finding in findings)
