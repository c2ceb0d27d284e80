"""Trainings as a Slurm job array, by submitit."""

from __future__ import annotations

import logging
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from petct.errors import CaseError
from training.networks.environment import LOADER_PROCESSES, training_environment
from training.networks.gpu_queue import BUSY_CODE

MAX_REQUEUES = 100  # after the time limit; a training goes on at its last checkpoint each time

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SlurmOptions:
    """What a training asks of Slurm.

    Attributes:
        partition: The partition; "" for the cluster's own choice.
        time_min: Time limit in minutes. A training that is not at its end by then is queued again and goes on.
        gpus: GPUs of a training, one or none.
        cpus: CPUs of a training, for the processes that load and augment.
        memory_gb: Memory of a training, in GB.
        at_once: Trainings at the same time.
        more: Further options of sbatch, by their names without dashes, such as `account` and `qos`.
    """

    partition: str
    time_min: int
    gpus: int
    cpus: int
    memory_gb: int
    at_once: int
    more: Mapping[str, str]


@dataclass(frozen=True)
class ClusterTask:
    """A command as submitit calls it on a node; what it prints is in submitit's log of it.

    Attributes:
        command: Program and arguments.
        folder: The folder to run in.
        cpus: CPUs that it has there.
    """

    command: tuple[str, ...]
    folder: str
    cpus: int

    def __call__(self) -> str:
        """Run it; returns how it ended.

        Raises:
            CalledProcessError: It failed.
        """
        # nnU-Net counts the node's processors, not those that Slurm gives to the job.
        environment = {LOADER_PROCESSES: str(self.cpus), **training_environment(os.environ)}
        code = subprocess.run(self.command, cwd=self.folder, env=environment, check=False).returncode
        if code == BUSY_CODE:
            return "in training by another process"
        if code != 0:
            raise subprocess.CalledProcessError(code, self.command)
        return "done"

    def checkpoint(self) -> Any:
        """What submitit queues again when the time limit or a preemption ends the job: the same."""
        return _submitit().helpers.DelayedSubmission(self)


def build_executor(folder: Path, *, options: SlurmOptions, cluster: str = "slurm") -> Any:
    """The executor of submitit.

    Args:
        folder: Where submitit keeps its files and the logs; it must be on a file system that the nodes share.
        options: What a training asks of Slurm.
        cluster: submitit's name of the cluster: `slurm`, or `local` or `debug` for this machine.

    Raises:
        CaseError: submitit is not installed, or this machine has no Slurm.
    """
    try:
        executor = _submitit().AutoExecutor(folder=folder, cluster=cluster, slurm_max_num_timeout=MAX_REQUEUES)
    except RuntimeError as error:
        raise CaseError("--slurm", "must be given where Slurm's srun and sbatch are", "none") from error
    executor.update_parameters(
        name="ttb_train",
        timeout_min=options.time_min,
        cpus_per_task=options.cpus,
        mem_gb=options.memory_gb,
        gpus_per_node=options.gpus,
        slurm_array_parallelism=options.at_once,
        slurm_partition=options.partition or None,
        slurm_additional_parameters=dict(options.more) or None,
    )
    return executor


def submit(commands: Mapping[str, Sequence[str]], *, executor: Any, folder: Path, cpus: int) -> dict[str, Any]:
    """Submit commands as one array; a single command as a job.

    Args:
        commands: Commands by the names of their jobs.
        executor: submitit's.
        folder: The folder to run in.
        cpus: CPUs of a command.

    Returns:
        submitit's jobs by name.
    """
    tasks = [ClusterTask(tuple(command), str(folder), cpus) for command in commands.values()]
    with executor.batch():
        jobs = [executor.submit(task) for task in tasks]
    for name, job in zip(commands, jobs, strict=True):
        log.info("%s is job %s, output in %s", name, job.job_id, job.paths.stdout)
    return dict(zip(commands, jobs, strict=True))


def minutes(text: str) -> int:
    """Minutes of a time limit in Slurm's own forms: `90`, `24:00:00`, `2-12`, `2-12:30` or `1-00:00:00`.

    Raises:
        CaseError: It is of no such form, or nothing.
    """
    found = re.fullmatch(r"(?:(\d+)-(\d+)(?::(\d+)(?::(\d+))?)?)|(?:(\d+):(\d+):(\d+))|(\d+)(?::(\d+))?", text)
    rule = "must be minutes, minutes:seconds, hours:minutes:seconds or days-hours:minutes:seconds"
    if found is None:
        raise CaseError("--slurm-time", rule, text)
    part = [int(number or 0) for number in found.groups()]
    seconds = 60 * (60 * (24 * part[0] + part[1]) + part[2]) + part[3]
    seconds += 60 * (60 * part[4] + part[5]) + part[6] + 60 * part[7] + part[8]
    if seconds < 60:
        raise CaseError("--slurm-time", f"{rule}, a minute at least", text)
    return seconds // 60


def _submitit() -> Any:
    try:
        import submitit
    except ImportError as error:
        rule = "submitit must be installed, by `pip install --requirement requirements-cluster.txt`"
        raise CaseError("--slurm", rule, "none") from error
    return submitit
