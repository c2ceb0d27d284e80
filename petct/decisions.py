"""What a run decided by itself, whichever thread decided it: said in the log at once, and kept for the run's record."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

_decisions: list[Decision] = []
_lock = threading.Lock()

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Decision:
    """One automatic decision.

    Attributes:
        about: What was decided, in a few words ("mode", "FDG plain_802 folds").
        chosen: What for.
        because: Why, with the numbers that decided.
        is_loss: Whether it gives up something that the manifest or the command line asks for.
    """

    about: str
    chosen: str
    because: str
    is_loss: bool


def decide(about: str, chosen: object, *, because: str, is_loss: bool = False) -> None:
    """Keep a decision and log it: a loss as a warning."""
    decision = Decision(about, str(chosen), because, is_loss)
    with _lock:
        _decisions.append(decision)
    log.log(logging.WARNING if is_loss else logging.INFO, "%s: %s, because %s", about, chosen, because)


def decisions() -> tuple[Decision, ...]:
    """What was decided since the process started or since `forget_decisions`, in order."""
    with _lock:
        return tuple(_decisions)


def forget_decisions() -> None:
    """Start anew, before the next case of a process."""
    with _lock:
        _decisions.clear()
