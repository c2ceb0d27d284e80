"""`python -m training train`."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from petct.errors import CaseError
from training.commands.arguments import count

if TYPE_CHECKING:
    import torch

    from training.networks.command_lines import CommandLine
    from training.networks.estimate import Speed
    from training.networks.jobs import Job, Progress, Validation

HELP = "train the networks of a recipe on this machine's GPUs or a cluster, going on where it was interrupted"

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--recipe", type=Path, required=True, help="what to train, as in training/recipes")
    parser.add_argument("--nnunet", type=Path, required=True, help="folder with the data sets; logs go to logs/ in it")
    parser.add_argument("--only", nargs="+", default=(), metavar="NAME", help="these networks or data set numbers only")
    parser.add_argument("--folds", type=int, nargs="+", default=(), help="these folds only")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--gpus", type=gpu_list, help="GPUs to train on, as 0,1,3; all when it is not given")
    parser.add_argument("--threads", type=count, help="CPU threads; two runs with one each beat one with two")
    validation = parser.add_mutually_exclusive_group()
    validation.add_argument("--skip-validation", action="store_true", help="no nnU-Net validation after a training")
    validation.add_argument("--validate-all", action="store_true", help="validate the demo's ShortTrainer too")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--dry-run", action="store_true", help="only print what is left")
    instead.add_argument("--estimate-only", action="store_true", help="only print what is left and how long it takes")
    instead.add_argument("--no-estimate", action="store_true", help="start without measuring how long it takes")
    instead.add_argument("--print-commands", action="store_true", help="only print a command for each job that is left")
    instead.add_argument("--slurm", type=Path, metavar="FOLDER", help="submit a Slurm job array; its logs go here")
    slurm = parser.add_argument_group("with --slurm")
    slurm.add_argument("--slurm-partition", default="", metavar="NAME")
    slurm.add_argument("--slurm-time", default="24:00:00", help="limit of a job, queued again until it is finished")
    slurm.add_argument("--slurm-cpus", type=count, default=12, help="CPUs of a job; nnU-Net loads with 12 processes")
    slurm.add_argument("--slurm-memory-gb", type=count, default=64)
    slurm.add_argument("--slurm-at-once", type=count, default=256, help="jobs at the same time")
    slurm.add_argument("--slurm-option", nargs="+", default=(), metavar="KEY=VALUE", help="as account=me qos=long")


def gpu_list(text: str) -> tuple[str, ...]:
    """GPUs from `0,1,3`, or what else CUDA_VISIBLE_DEVICES takes, each once."""
    gpus = tuple(part.strip() for part in text.split(","))
    if not all(gpus) or len(set(gpus)) != len(gpus):
        raise argparse.ArgumentTypeError(f"must be GPUs like 0,1,3, each once, got {text!r}")
    return gpus


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from training.networks.signals import exit_code, stoppable

    try:
        with stoppable():
            return _run(options)
    except KeyboardInterrupt as stop:
        log.warning("stopped; the same command goes on where it was")
        return exit_code(stop)


def _run(options: argparse.Namespace) -> int:
    from training.datasets.planning import set_nnunet_folders
    from training.networks.environment import EXPORT_PROCESSES
    from training.networks.jobs import choose_jobs, look
    from training.networks.progress_table import progress_table
    from training.networks.readiness import check_ready
    from training.networks.recipe import read_recipe

    os.environ.setdefault(EXPORT_PROCESSES, str(min(8, os.cpu_count() or 1)))  # 8 is nnU-Net's own number
    options.nnunet = options.nnunet.resolve()
    jobs = choose_jobs(read_recipe(options.recipe), only=options.only, folds=options.folds)
    gpus = _gpus(options)
    set_nnunet_folders(options.nnunet)
    if options.print_commands:
        logging.getLogger().setLevel(logging.WARNING)  # what is printed is to be run, line by line
    check_ready(jobs, nnunet=options.nnunet)
    is_to_train = not (options.dry_run or options.estimate_only or options.print_commands or options.slurm)
    if is_to_train and len(jobs) == 1:
        return _train_one(jobs[0], options=options)
    progress = [look(job, nnunet=options.nnunet, validation=_validation(options)) for job in jobs]
    left = tuple(one.job for one in progress if one.is_left)
    if options.print_commands:
        for line in _command_line(options, gpus=gpus).printed(left, gpus=gpus):
            print(line)
        return 0
    # None: on GPUs, each in a process of its own.
    device = _device(options) if left and not gpus and (is_to_train or options.estimate_only) else None
    speeds = None
    if left and (options.estimate_only or (is_to_train and not options.no_estimate)):
        speeds = _measure(progress, options=options, device=device, gpus=gpus)
    for line in progress_table(progress, speeds=speeds, at_once=max(1, len(gpus))):
        print(line, flush=True)
    if left and options.slurm:
        return _submit(left, options=options)
    if left and is_to_train:
        return _train_all(left, options=options, device=device, gpus=gpus)
    return int(speeds is not None and None in speeds.values())


def _train_one(job: Job, *, options: argparse.Namespace) -> int:
    """Train a single job in this process, as the queue's and the cluster's commands do."""
    from training.networks.gpu_queue import BUSY_CODE
    from training.networks.here import train_here
    from training.networks.locks import LockedError

    if options.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = options.gpus[0]
    try:
        train_here(job, nnunet=options.nnunet, device=_device(options), validation=_validation(options))
    except LockedError as error:
        log.warning("%s: in training by another process: %s", job.name, error)
        return BUSY_CODE
    return 0


def _train_all(
    jobs: Sequence[Job], *, options: argparse.Namespace, device: torch.device | None, gpus: Sequence[str]
) -> int:
    from training.networks.command_lines import CODE_FOLDER
    from training.networks.gpu_queue import Result, Task, run_tasks
    from training.networks.here import train_each_here

    if device is None:
        lines = _command_line(options, gpus=gpus)
        tasks = [Task(job.name, lines.of(job), job.log(options.nnunet)) for job in jobs]
        outcomes = run_tasks(tasks, gpus=gpus, folder=CODE_FOLDER)
    else:
        outcomes = train_each_here(jobs, nnunet=options.nnunet, device=device, validation=_validation(options))
    counts = {result: [one for one in outcomes if one.result is result] for result in Result}
    for one in counts[Result.FAILED]:
        print(f"{one.name} failed: {one.message}")
    print(", ".join(f"{len(found)} {result.value}" for result, found in counts.items()))
    return int(bool(counts[Result.FAILED]))


def _submit(jobs: Sequence[Job], *, options: argparse.Namespace) -> int:
    from training.networks.cluster import SlurmOptions, build_executor, minutes, submit
    from training.networks.command_lines import CODE_FOLDER

    if strange := [text for text in options.slurm_option if not all(text.partition("="))]:
        raise CaseError("--slurm-option", "must be KEY=VALUE", ", ".join(strange))
    wishes = SlurmOptions(
        partition=options.slurm_partition,
        time_min=minutes(options.slurm_time),
        gpus=0 if options.device == "cpu" else 1,
        cpus=options.slurm_cpus,
        memory_gb=options.slurm_memory_gb,
        at_once=options.slurm_at_once,
        more=dict(text.split("=", 1) for text in options.slurm_option),
    )
    executor = build_executor(options.slurm.resolve(), options=wishes)
    lines = _command_line(options, gpus=())
    if jobs:
        submit({job.name: lines.of(job) for job in jobs}, executor=executor, folder=CODE_FOLDER, cpus=wishes.cpus)
    return 0


def _measure(
    progress: Sequence[Progress], *, options: argparse.Namespace, device: torch.device | None, gpus: Sequence[str]
) -> dict[str, Speed | None]:
    import torch

    from training.networks.estimate import measure_all

    gpu = gpus[0] if device is None else None
    return measure_all(progress, nnunet=options.nnunet, device=device or torch.device("cuda"), gpu=gpu)


def _gpus(options: argparse.Namespace) -> tuple[str, ...]:
    """The GPUs to train on, found without a context on any of them; none for the CPU."""
    import torch

    from operation.setting import choose_device

    if options.device == "cpu":
        if options.gpus:
            raise CaseError("--gpus", "must not come with --device cpu", ",".join(options.gpus))
        return ()
    if options.slurm is not None:
        return ()  # Slurm chooses
    count_here = torch.cuda.device_count()
    if count_here == 0 and not options.print_commands and (options.gpus or options.device == "cuda"):
        choose_device("cuda")  # refuses
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    here = visible.split(",") if visible else map(str, range(count_here))
    return tuple(options.gpus or list(here)[:count_here])


def _device(options: argparse.Namespace) -> torch.device:
    """The device of this process, with as many threads as it is worth."""
    import torch

    from operation.setting import choose_device

    device = choose_device(options.device)
    if options.threads or device.type == "cuda":
        torch.set_num_threads(options.threads or 1)  # on a GPU more do not help nnU-Net
    return device


def _validation(options: argparse.Namespace) -> Validation:
    from training.networks.jobs import Validation

    if options.skip_validation:
        return Validation.NONE
    return Validation.ALL if options.validate_all else Validation.OWN


def _command_line(options: argparse.Namespace, *, gpus: Sequence[str]) -> CommandLine:
    from training.networks.command_lines import CommandLine

    # A job that was meant for a GPU does not creep along on a CPU instead.
    is_for_gpu = gpus or (options.slurm is not None and options.device != "cpu")
    return CommandLine(
        recipe=options.recipe,
        nnunet=options.nnunet,
        device="cuda" if is_for_gpu else options.device,
        threads=options.threads,
        validation=_validation(options),
    )
