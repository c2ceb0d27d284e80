"""Telling PSMA from FDG by what the organs take up, so that swapped files are found."""

from __future__ import annotations

from collections.abc import Mapping

from petct.case import Tracer
from training.checks.findings import Findings, Severity

# FDG: the brain burns sugar, at 3-6 times the liver, and the kidneys' cortex is near the liver. PSMA does not enter the
# brain, at a hundredth of the liver, and the kidneys' tubules express it, at 3-15 times the liver with 68Ga-PSMA-11.
# Between the limits neither is said: drugs, high blood sugar, much disease, other PSMA ligands, brain out of the scan.
BRAIN_TO_LIVER_OF_FDG = 1.0
BRAIN_TO_LIVER_OF_PSMA = 0.3
KIDNEY_TO_LIVER_OF_PSMA = 3.0
KIDNEY_TO_LIVER_OF_FDG = 1.7
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
    liver_suv = medians_suv.get("liver", 0.0)
    if liver_suv <= 0.0:
        return
    brain, kidney = (
        None if medians_suv.get(name) is None else medians_suv[name] / liver_suv for name in ("brain", "kidney")
    )
    by_brain = _vote(brain, psma=BRAIN_TO_LIVER_OF_PSMA, fdg=BRAIN_TO_LIVER_OF_FDG)
    by_kidney = _vote(kidney, psma=KIDNEY_TO_LIVER_OF_PSMA, fdg=KIDNEY_TO_LIVER_OF_FDG)
    against = [vote for vote in (by_brain, by_kidney) if vote not in (None, tracer)]
    if not against:
        return
    is_certain = by_brain not in (None, tracer) and by_kidney is not tracer
    seen = ", ".join(
        f"{name} at {ratio:.2g} times the liver"
        for name, ratio in (("brain", brain), ("kidneys", kidney))
        if ratio is not None
    )
    rule = f"PET must be {tracer.name}; PSMA and FDG may be swapped"
    got = f"organs that look like {against[0].name}: {seen}" if against[0] else seen
    findings.add(file, rule, got, severity=Severity.ERROR if is_certain else Severity.WARNING)


def _vote(ratio: float | None, *, psma: float, fdg: float) -> Tracer | None:
    """Which tracer a ratio to the liver speaks for, by the limits beyond which only one does."""
    if ratio is None:
        return None
    is_hotter_psma = psma > fdg
    if (ratio >= psma) if is_hotter_psma else (ratio <= psma):
        return Tracer.PSMA
    if (ratio <= fdg) if is_hotter_psma else (ratio >= fdg):
        return Tracer.FDG
    return None


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
