"""Chooses what a case holds at the same time so that it fits, before hours are spent on it."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
import torch

from operation.memory_need import MARGIN_BYTES, MARGIN_SHARE, Compute, Need, NetworkSize, ScanSize, predict_need
from petct.case import Case, Scan, Tracer
from petct.channels import SOFT_REACH_MM, OrganEncoding, channels_of
from petct.decisions import decide
from petct.errors import CaseError
from petct.geometry import grid_of
from petct.manifest import Manifest, Member
from petct.memory import Budget, gib, memory_budget
from segmentation.fold_windows import whole_placement
from segmentation.memory_use import MemoryUse
from segmentation.networks import choose_backend, choose_precision
from segmentation.packed_model import PackedModel, Precision, read_packed_model
from segmentation.plans import read_recipe
from segmentation.weight_files import fold_file

# The prediction errs on the large side: what is this much above the budget may still fit, and is tried.
TRIED_ABOVE = 0.2
_HALF = 2
_SAMPLES = 4  # every so many voxels of an organ map are looked at

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Step:
    """Something to give up, in words for the log."""

    chosen: str
    less: dict[str, bool | int]
    is_loss: bool = False


# What costs least time comes first. None of them changes a mask, but the last, and that by rounding alone.
_ON_HOST = (
    _Step("nothing is done beside the networks", {"is_overlapped": False}),
    _Step("one window at a time", {"windows_at_once": 1}),
    _Step("each member's channels are made when its turn comes", {"is_group_held": False}),
    _Step("no channels are kept for other members", {"are_channels_remembered": False}),
)
_ON_GPU = (
    _Step("one window at a time", {"windows_at_once": 1}),
    _Step("windows are summed in the host's memory", {"is_sum_on_host": True}),
    _Step("the networks run on the CPU", {"is_network_on_host": True, "is_sum_on_host": True}, is_loss=True),
)


def plan_memory(
    case: Case, *, organs: Mapping[Tracer, sitk.Image], manifest: Manifest, device: torch.device
) -> MemoryUse:
    """What a case that has been read may hold at the same time, with what memory there is now.

    Raises:
        CaseError: It does not fit whatever is given up; or a member's files are not what its manifest says.
    """
    backend = choose_backend(manifest.backend, device=device)
    is_gpu = device.type == "cuda"
    itemsize = choose_precision(manifest.mode, backend=backend).itemsize
    scans = [
        scan_size(case.scan(tracer), organs=organs[tracer], members=manifest.tracer(tracer).members)
        for tracer in Tracer
    ]
    return choose_use(
        scans,
        compute=Compute(backend, _HALF if is_gpu else itemsize, is_gpu, torch.get_num_threads()),
        budget=memory_budget(),
        gpu_bytes=torch.cuda.mem_get_info(device)[0] if is_gpu else 0,
    )


def choose_use(scans: list[ScanSize], *, compute: Compute, budget: Budget, gpu_bytes: int) -> MemoryUse:
    """What fits into a budget, with as little given up as possible.

    Args:
        scans: Both scans.
        compute: What computes the networks.
        budget: Of the host, beyond what is held.
        gpu_bytes: What the GPU has free.

    Raises:
        CaseError: Nothing does.
    """
    use = MemoryUse.ample()
    if compute.is_gpu:
        for step in _ON_GPU:
            need = predict_need(scans, use=use, compute=compute)
            if need.gpu_bytes <= gpu_bytes:
                break
            because = f"{gib(need.gpu_bytes)} would be needed of the GPU, which has {gib(gpu_bytes)} free"
            use = _without(use, step, because=because)
    for step, need in _given_up(scans, use=use, compute=compute, free_bytes=budget.free_bytes):
        use = _without(use, step, because=_because(need, budget=budget))
    need = predict_need(scans, use=use, compute=compute)
    log.info(
        "memory: %s at most for %s, %s left by %s",
        gib(need.host_bytes),
        need.where,
        gib(budget.free_bytes),
        budget.limited_by,
    )
    if need.host_bytes > (1.0 + TRIED_ABOVE) * budget.free_bytes:
        rule = f"case must fit in memory, and needs {gib(need.host_bytes)} for {need.where}"
        raise CaseError("memory", rule, f"{gib(budget.free_bytes)} left by {budget.limited_by}")
    if _safe(need.host_bytes) > budget.free_bytes:
        log.warning("memory: %s, which may not suffice; it is tried", _because(need, budget=budget))
    return use


def scan_size(scan: Scan, *, organs: sitk.Image, members: tuple[Member, ...]) -> ScanSize:
    """What the need of a scan depends on; no voxel of the PET is looked at.

    Raises:
        CaseError: A member's files are not what its manifest says.
    """
    voxels = math.prod(scan.pet.GetSize())
    models = [read_packed_model(member) for member in members]
    return ScanSize(
        name=scan.tracer.name,
        voxels=voxels,
        organ_voxels=math.ceil(voxels * _organ_share(organs, pet=scan.pet)),
        networks=tuple(_network_size(model, pet=scan.pet) for model in models),
    )


def _network_size(model: PackedModel, *, pet: sitk.Image) -> NetworkSize:
    member, patch = model.member, model.configuration.patch_size
    channels = len(channels_of(member.organ_encoding, model.clip))
    recipe = read_recipe(model.plans, model.configuration, channels=channels, where=model.where)
    placement = whole_placement(grid_of(pet), recipe=recipe)
    shape = placement.box_shape if recipe.resampling.is_idle else placement.network_shape
    largest = max((member.folder / fold_file(fold, member.checkpoint)).stat().st_size for fold in member.folds)
    features = model.configuration.network_arch_init_kwargs["features_per_stage"]
    return NetworkSize(
        name=member.name,
        seen=(member.organ_encoding, model.clip),
        made=(recipe, tuple(patch)),
        channels=channels,
        voxels=math.prod(shape),
        padded_voxels=math.prod(max(size, window) for size, window in zip(shape, patch, strict=True)),
        window_voxels=math.prod(patch),
        features=features if isinstance(features, int) else features[0],
        weight_bytes=largest * (2 if model.stored_as is Precision.FLOAT16 else 1),
        folds=len(member.folds),
        has_distances=member.organ_encoding is OrganEncoding.SOFT_DISTANCE,
    )


def _organ_share(organs: sitk.Image, *, pet: sitk.Image) -> float:
    """The share of the PET that the organs' box takes, with what distances reach around it; all of it if turned."""
    if not np.allclose(organs.GetDirection(), pet.GetDirection(), atol=1e-3):
        return 1.0
    is_organ = sitk.GetArrayViewFromImage(organs)[::_SAMPLES, ::_SAMPLES, ::_SAMPLES] > 0
    if not is_organ.any():
        return 0.0
    share = 1.0
    for axis in range(3):  # (z, y, x)
        (hit,) = np.nonzero(is_organ.any(axis=tuple({0, 1, 2} - {axis})))
        spacing_mm, pet_mm = organs.GetSpacing()[2 - axis], pet.GetSpacing()[2 - axis] * pet.GetSize()[2 - axis]
        samples = int(hit[-1]) - int(hit[0]) + 2  # one more on either side may hold some
        share *= min(1.0, (samples * _SAMPLES * spacing_mm + 2 * SOFT_REACH_MM) / pet_mm)
    return share


def _given_up(scans: list[ScanSize], *, use: MemoryUse, compute: Compute, free_bytes: int) -> list[tuple[_Step, Need]]:
    """The host's steps that are needed, each with what would be needed without it and those after it."""

    def need(steps: list[_Step]) -> Need:
        return predict_need(scans, use=_after(use, steps), compute=compute)

    steps = [*_ON_HOST]
    for count in range(len(_ON_HOST) + 1):
        if _safe(need(steps[:count]).host_bytes) <= free_bytes:
            steps = steps[:count]
            break
    most = max(need(steps).host_bytes, math.floor((free_bytes - MARGIN_BYTES) * (1.0 - MARGIN_SHARE)))
    for step in _ON_HOST:
        others = [kept for kept in steps if kept is not step]
        if need(others).host_bytes <= most:
            steps = others
    return [(step, need(steps[:number])) for number, step in enumerate(steps)]


def _after(use: MemoryUse, steps: list[_Step]) -> MemoryUse:
    for step in steps:
        use = replace(use, **step.less)  # type: ignore[arg-type]
    return use


def _without(use: MemoryUse, step: _Step, *, because: str) -> MemoryUse:
    decide("memory", step.chosen, because=because, is_loss=step.is_loss)
    return _after(use, [step])


def _because(need: Need, *, budget: Budget) -> str:
    return (
        f"{gib(need.host_bytes)} would be needed for {need.where}, and {gib(budget.free_bytes)} are left by "
        f"{budget.limited_by}"
    )


def _safe(host_bytes: int) -> int:
    """What a prediction stands for at most."""
    return math.ceil(host_bytes / (1.0 - MARGIN_SHARE)) + MARGIN_BYTES
