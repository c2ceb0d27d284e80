"""Patients who cannot be used: all are tried, and every refused one is named."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from petct.errors import CaseError

log = logging.getLogger(__name__)


class RefusedPatientsError(CaseError):
    """Some patients cannot be used.

    Args:
        where: What they were to be used for.
        refused: Why not, by patient; one at least.
        total: How many were tried.
    """

    def __init__(self, where: str, refused: Mapping[str, CaseError], total: int) -> None:
        self.refused = dict(refused)
        self.total = total
        rule = f"{len(refused)} of {total} patients cannot be used; mend them, or --leave-out-broken"
        super().__init__(where, f"{rule} ({', '.join(refused)})", str(next(iter(refused.values()))))

    def __reduce__(self) -> tuple[type[RefusedPatientsError], tuple[str, dict[str, CaseError], int]]:  # type: ignore[override]
        """Pickle what it was made of."""
        return RefusedPatientsError, (self.where, self.refused, self.total)


def refusal_of(error: Exception, *, patient: str) -> CaseError:
    """A patient's refusal, which names the patient.

    Raises:
        Exception: The error itself, when it is none of the patient's.
    """
    if not isinstance(error, CaseError):
        raise error
    if patient in error.where:
        return error
    return CaseError(f"{patient} {error.where}", error.rule, error.got)


def leave_out_refused(refused: Mapping[str, CaseError], *, total: int, where: str, is_allowed: bool) -> None:
    """Refuse when patients were refused, or say who is left out.

    Args:
        refused: Why, by patient; may be empty.
        total: How many patients were tried.
        where: What they were to be used for.
        is_allowed: Whether patients may be left out; never all of them.

    Raises:
        RefusedPatientsError: There are some and they must not be left out, or there are no others.
    """
    if not refused:
        return
    if not is_allowed or len(refused) == total:
        raise RefusedPatientsError(where, refused, total)
    for error in refused.values():
        log.error("%s", error)
    log.warning("%s: %d of %d patients are left out: %s", where, len(refused), total, ", ".join(refused))
