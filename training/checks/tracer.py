"""Telling PSMA from FDG by what the organs take up, so that swapped files are found."""

from __future__ import annotations

from collections.abc import Mapping

from petct.case import Tracer
from petct.plausible import contradiction
from training.checks.findings import Findings, Severity

# The FDG threshold is the liver's mean + 2 standard deviations; a liver's spread is 5-25 % of its mean.
THRESHOLD_TO_LIVER = (0.9, 2.5)


def check_tracer(medians_suv: Mapping[str, float], *, tracer: Tracer, file: str, findings: Findings) -> None:
    """Note a PET that looks like the other tracer: an error where the brain says so, a warning by the kidneys alone.

    Args:
        medians_suv: Median SUV of `brain`, `liver` and `kidney`, as far as the PET shows them.
        tracer: What the PET is said to be.
        file: The PET, for the findings.
        findings: Where to note what is wrong.
    """
    found = contradiction(medians_suv, tracer=tracer)
    if found is not None:
        severity = Severity.ERROR if found.is_certain else Severity.WARNING
        findings.add(file, found.rule, found.got, severity=severity)


def check_fdg_threshold(medians_suv: Mapping[str, float], threshold: float, *, file: str, findings: Findings) -> None:
    """Warn of an FDG threshold that cannot come from this scan's liver.

    Args:
        medians_suv: Median SUV of `liver`, where the PET shows it.
        threshold: SUV threshold.
        file: The threshold's file, for the findings.
        findings: Where to note what is wrong.
    """
    liver_suv = medians_suv.get("liver", 0.0)
    low, high = THRESHOLD_TO_LIVER
    if liver_suv > 0.0 and not low <= threshold / liver_suv <= high:
        rule = f"FDG threshold should be {low:g}-{high:g} times the liver's median"
        findings.warn(file, rule, f"{threshold:g} SUV for a liver of {liver_suv:.3g} SUV")
