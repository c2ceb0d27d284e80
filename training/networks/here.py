"""Trainings in this process, one after another: the way on a CPU, and for a single job on any device."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from training.networks.gpu_queue import Outcome, Result
from training.networks.jobs import Job, Validation, wants_validation
from training.networks.locks import LockedError
from training.networks.train import train_fold

log = logging.getLogger(__name__)


def train_here(job: Job, *, nnunet: Path, device: torch.device, validation: Validation) -> None:
    """Train one job to its end.

    Args:
        job: The job.
        nnunet: Folder with nnU-Net's three folders, in the environment already.
        device: Where to train.
        validation: Which trainings end with a validation.

    Raises:
        CaseError: The data set is not preprocessed.
        LockedError: Another process trains it.
    """
    validate = wants_validation(job.network, validation)
    train_fold(job.network, fold=job.fold, nnunet=nnunet, device=device, validate=validate)


def train_each_here(
    jobs: Sequence[Job], *, nnunet: Path, device: torch.device, validation: Validation
) -> tuple[Outcome, ...]:
    """Train jobs one after another; a failure is logged and does not stop the others."""
    outcomes = []
    for number, job in enumerate(jobs, start=1):
        log.info("%s starts (%d of %d)", job.name, number, len(jobs))
        try:
            train_here(job, nnunet=nnunet, device=device, validation=validation)
            outcomes.append(Outcome(job.name, Result.DONE, ""))
        except LockedError as error:
            log.warning("%s: in training by another process: %s", job.name, error)
            outcomes.append(Outcome(job.name, Result.BUSY, ""))
        except Exception as error:
            log.exception("%s failed", job.name)
            message = " ".join(f"{type(error).__name__}: {error}".split())
            outcomes.append(Outcome(job.name, Result.FAILED, message))
    return tuple(outcomes)
