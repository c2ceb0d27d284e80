"""How long a training will take, from a few measured iterations of each kind of network."""

from __future__ import annotations

import heapq
import io
import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from petct.errors import CaseError
from training.datasets.descriptions import dataset_name
from training.datasets.planning import CONFIGURATION, NNUNET_PLANS
from training.networks.environment import RESULTS, variable
from training.networks.jobs import Progress, State
from training.networks.recipe import NetworkRecipe, TrainerName
from training.networks.signals import stoppable
from training.networks.train import build_trainer, close_loaders, loader_processes

LIMIT_S = 60.0  # of measuring one kind of network, its first iteration apart
# Before and while measuring. On a GPU the first ones compile the network and use up the batches that were loaded
# meanwhile, so that what is measured is the slower of computing and loading.
_ITERATIONS = {"cpu": (1, 4), "cuda": (10, 30)}
_VALIDATION_ITERATIONS = 2

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Speed:
    """How fast a kind of network trains here.

    Attributes:
        iteration_s: Seconds of a training iteration, loading included.
        epoch_s: Seconds of an epoch, its validation batches included.
    """

    iteration_s: float
    epoch_s: float


def measure_all(
    progress: Sequence[Progress], *, nnunet: Path, device: torch.device, gpu: str | None
) -> dict[str, Speed | None]:
    """Measure every kind of network that has epochs left, once.

    Networks are of one kind when their plans, channels and iterations are the same. Nothing stays behind: results go to
    a scratch folder that is removed.

    Args:
        progress: The jobs.
        nnunet: Folder with nnU-Net's three folders, in the environment already.
        device: What will be trained on.
        gpu: The GPU to measure on, in a process of its own; None to measure in this one.

    Returns:
        Speed by job's name; None where the network failed, which is logged.
    """
    kinds: dict[str, list[Progress]] = {}
    for one in progress:
        if one.is_left and one.state is not State.TO_VALIDATE:
            kinds.setdefault(_kind(one.job.network, nnunet=nnunet), []).append(one)
    speeds: dict[str, Speed | None] = {}
    for index, alike in enumerate(kinds.values(), start=1):
        network = alike[0].job.network
        log.info("measuring a few iterations of %s (%d of %d)", network.model, index, len(kinds))
        work = partial(measure, network, nnunet=nnunet, device=device)
        speed = _logged(work if gpu is None else partial(_in_process_on, gpu, work), name=network.model)
        speeds |= {one.job.name: speed for one in alike}
    return speeds


def measure(network: NetworkRecipe, *, nnunet: Path, device: torch.device, limit_s: float = LIMIT_S) -> Speed:
    """Measure a network's iterations on its data, all folds of it together; needs no splits and leaves nothing.

    Args:
        network: The network.
        nnunet: Folder with nnU-Net's three folders, in the environment already.
        device: Where to train.
        limit_s: When to stop; one iteration is always measured.
    """
    with _scratch_results(), redirect_stdout(io.StringIO()), loader_processes(network, device=device):
        trainer = build_trainer(network, fold=0, nnunet=nnunet, device=device)
        trainer.fold = "all"  # nnU-Net's word for every case, which reads no splits and makes none
        try:
            trainer.dataloader_train, trainer.dataloader_val = trainer.get_dataloaders()
            return _measure(trainer, limit_s=limit_s)
        finally:
            close_loaders(trainer)


def total_h(progress: Sequence[Progress], speeds: Mapping[str, Speed | None], *, at_once: int) -> tuple[float, float]:
    """Hours of all jobs left, one after another, and from the first start to the last end with so many at once.

    Jobs that were not measured count nothing.
    """
    left_h = [hours for one in progress if (hours := hours_left(one, speeds)) is not None]
    ends_h = [0.0] * at_once
    for hours in left_h:
        heapq.heapreplace(ends_h, ends_h[0] + hours)  # each job in turn goes to the first that is free
    return sum(left_h), max(ends_h)


def hours_left(progress: Progress, speeds: Mapping[str, Speed | None]) -> float | None:
    """Hours of a job's epochs left; None when its network was not measured."""
    speed = speeds.get(progress.job.name)
    return None if speed is None else progress.epochs_left * speed.epoch_s / 3600.0


def _measure(trainer: Any, *, limit_s: float) -> Speed:
    warm_up, iterations = _ITERATIONS[trainer.device.type]
    torch.backends.cudnn.benchmark = trainer.device.type == "cuda"  # as in the training itself
    trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
    trainer.network.train()
    first_s = _timed(lambda: trainer.train_step(next(trainer.dataloader_train)))
    give_up_s = time.monotonic() + limit_s
    measured_s = [first_s]
    for _ in range(warm_up - 1 + iterations):
        if time.monotonic() > give_up_s:
            break
        measured_s.append(_timed(lambda: trainer.train_step(next(trainer.dataloader_train))))
    kept_s = measured_s[warm_up:] or measured_s[-1:]
    iteration_s = sum(kept_s) / len(kept_s)
    trainer.network.eval()
    validation_s = iteration_s
    with torch.no_grad():
        for _ in range(_VALIDATION_ITERATIONS):
            if time.monotonic() > give_up_s:
                break
            validation_s = _timed(lambda: trainer.validation_step(next(trainer.dataloader_val)))
    epoch_s = trainer.num_iterations_per_epoch * iteration_s + trainer.num_val_iterations_per_epoch * validation_s
    return Speed(iteration_s, epoch_s)


def _timed(step: Callable[[], object]) -> float:
    """Seconds that a step takes; nnU-Net's steps bring the loss to the CPU, so the GPU has done its work."""
    start_s = time.perf_counter()
    step()
    return time.perf_counter() - start_s


def _logged(work: Callable[[], Speed], *, name: str) -> Speed | None:
    try:
        speed = work()
    except CaseError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever nnU-Net raises; the training itself will show it in full
        log.warning("%s: could not be measured: %s: %s", name, type(error).__name__, error)
        return None
    log.info("%s: %.3g s per iteration, %.3g s per epoch", name, speed.iteration_s, speed.epoch_s)
    return speed


def _in_process_on(gpu: str, work: Callable[[], Speed]) -> Speed:
    """Do it on one GPU in a process of its own, whose memory is free again when the training starts."""
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(work, sender))
    with variable("CUDA_VISIBLE_DEVICES", gpu):
        process.start()
    sender.close()
    try:
        result = receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"its process ended with exit code {process.exitcode}") from None
    finally:
        process.terminate()  # where this one is stopped while it waits
        process.join()
    if isinstance(result, Speed):
        return result
    raise RuntimeError(result)


def _send(work: Callable[[], Speed], sender: Connection) -> None:
    """Send the speed, or as a text what went wrong: not every exception can be sent."""
    torch.set_num_threads(1)  # as the training does on a GPU
    with stoppable():
        try:
            sender.send(work())
        except Exception as error:  # noqa: BLE001 - reported by the process that asked
            sender.send(f"{type(error).__name__}: {error}")


@contextmanager
def _scratch_results() -> Iterator[None]:
    with tempfile.TemporaryDirectory(prefix="estimate_") as folder, variable(RESULTS, folder):
        yield


def _kind(network: NetworkRecipe, *, nnunet: Path) -> str:
    """What networks that train equally fast have in common."""
    preprocessed = nnunet / "nnUNet_preprocessed" / dataset_name(network.dataset)
    plans = json.loads((preprocessed / f"{NNUNET_PLANS[network.architecture]}.json").read_text(encoding="utf-8"))
    dataset = json.loads((preprocessed / "dataset.json").read_text(encoding="utf-8"))
    return json.dumps(
        [
            plans["configurations"][CONFIGURATION],
            repr(network.narrow),
            len(dataset["channel_names"]),
            len(dataset["labels"]),
            network.trainer is TrainerName.SHORT,
            network.iterations,
        ],
        sort_keys=True,
    )
