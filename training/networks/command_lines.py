"""The command line that trains exactly one job, for a GPU's queue, for a user's own scripts and for a cluster."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import training
from training.networks.jobs import Job, Validation

CODE_FOLDER = Path(training.__file__).resolve().parent.parent  # where `python -m training` works

_VALIDATION = {Validation.OWN: (), Validation.ALL: ("--validate-all",), Validation.NONE: ("--skip-validation",)}


@dataclass(frozen=True)
class CommandLine:
    """What the command lines of all jobs have in common.

    Attributes:
        recipe: The recipe's file.
        nnunet: Folder with nnU-Net's three folders.
        device: `auto`, `cpu` or `cuda`.
        threads: CPU threads; None for the device's own number.
        validation: Which trainings end with a validation.
    """

    recipe: Path
    nnunet: Path
    device: str
    threads: int | None
    validation: Validation

    def of(self, job: Job) -> tuple[str, ...]:
        """Program and arguments that train one job, to be run in `CODE_FOLDER`."""
        threads = () if self.threads is None else ("--threads", str(self.threads))
        files = ("--recipe", str(self.recipe.resolve()), "--nnunet", str(self.nnunet.resolve()))
        which = ("--only", job.network.name, "--folds", str(job.fold))
        how = ("--device", self.device, *threads, *_VALIDATION[self.validation], "--no-estimate")
        return (sys.executable, "-m", "training", "train", *files, *which, *how)

    def printed(self, jobs: Sequence[Job], *, gpus: Sequence[str]) -> Iterator[str]:
        """A line of shell for each job, the GPUs in turn; without GPUs the choice is left to the shell."""
        for job, gpu in zip(jobs, cycle(gpus or [""]), strict=False):
            prefix = f"CUDA_VISIBLE_DEVICES={shlex.quote(gpu)} " if gpu else ""
            yield f"cd {shlex.quote(str(CODE_FOLDER))} && {prefix}{shlex.join(self.of(job))}"
