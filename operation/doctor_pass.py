"""The doctor's forward pass: the first member's own network on the device and the backend that cases would run on."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import replace

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

from operation.doctor_verdicts import Networks, Verdict, fail, ok
from operation.network_cost import window_flops
from petct.case import Tracer
from petct.manifest import Backend
from segmentation.networks import choose_backend, choose_precision
from segmentation.openvino_network import OpenVinoNetwork, default_cache
from segmentation.packed_model import PackedModel, build_network, load_fold, read_packed_model
from segmentation.sliding_window import Network
from segmentation.torch_network import TorchNetwork

# One slow processor core does this much in 2 s; a GPU gets the whole window, which is what keeps it busy.
_CPU_FLOP = 60e9
_LEAST_S = 0.5
_MOST_PASSES = 5
# What a rate means, from the measurements of docs/performance.md: GFLOP/s below which it is so.
_IN_WORDS = (
    (20.0, "slower than one usual processor core: cases may take hours"),
    (150.0, "as one or two processor cores"),
    (1500.0, "as a usual processor"),
    (math.inf, "as a GPU or a large server"),
)


def check_forward_pass(networks: Networks) -> Iterator[Verdict]:
    """A window of noise through the first member's first fold: how fast, and whether numbers come out."""
    member = networks.manifest.psma.members[0]
    backend = choose_backend(networks.manifest.backend, device=networks.device)
    model = read_packed_model(member)
    window = window_zyx(model, is_whole=networks.device.type == "cuda")
    network = _open(seeing(model, window), window, networks=networks, backend=backend)
    noise = torch.randn(
        (len(model.dataset["channel_names"]), *window), generator=torch.Generator().manual_seed(1), dtype=torch.float32
    )
    logits = network([noise])
    where = f"{Tracer.PSMA.name} {member.name} fold {member.folds[0]}"
    if not all(torch.isfinite(one).all() for one in logits):
        remedy = "the device or its driver computes wrongly, or the weights are wrong: try --device cpu"
        yield fail("forward pass", f"logits of {where} must be finite numbers, got others", remedy=remedy)
        return
    seconds = _seconds_per_window(network, noise)
    gflop_per_s = window_flops(seeing(model, window)) / seconds / 1e9
    words = next(words for below, words in _IN_WORDS if gflop_per_s < below)
    size = " x ".join(map(str, window))
    device = torch.cuda.get_device_name() if networks.device.type == "cuda" else "the CPU"
    yield ok(
        "forward pass",
        f"{where} by {backend} on {device}, a window of {size} in {seconds:.3g} s, {gflop_per_s:.0f} GFLOP/s, {words}; "
        "logits are finite",
    )


def window_zyx(model: PackedModel, *, is_whole: bool) -> tuple[int, ...]:
    """A window that the network can see: the plans' own, or as large a part of it as a CPU computes in no time.

    Args:
        model: Whose network.
        is_whole: Whether the plans' own window is wanted however long it takes.
    """
    patch = tuple(int(size) for size in model.configuration.patch_size)
    if is_whole:
        return patch
    strides = [math.prod(steps) for steps in zip(*model.configuration.pool_op_kernel_sizes, strict=True)]
    # Two voxels are the least that is left to normalise at the bottom of the network.
    window = tuple(min(size, 2 * stride) for size, stride in zip(patch, strides, strict=True))
    flop_per_voxel = window_flops(seeing(model, window)) / math.prod(window)
    while window != patch:
        larger = tuple(min(size, now + stride) for size, now, stride in zip(patch, window, strides, strict=True))
        if flop_per_voxel * math.prod(larger) > _CPU_FLOP:
            break
        window = larger
    return window


def seeing(model: PackedModel, window: tuple[int, ...]) -> PackedModel:
    """The model with another window in its plans."""
    configuration = copy.deepcopy(model.configuration.configuration)
    configuration["patch_size"] = list(window)
    return replace(model, configuration=ConfigurationManager(configuration))


def _open(model: PackedModel, window: tuple[int, ...], *, networks: Networks, backend: Backend) -> Network:
    fold = model.member.folds[0]
    if backend is Backend.OPENVINO:
        is_own = window == tuple(read_packed_model(model.member).configuration.patch_size)
        precision = choose_precision(networks.manifest.mode, backend=backend)
        # What is converted for another window is of no use to anybody else.
        cache = default_cache() if is_own else None
        return OpenVinoNetwork.compile(model, fold=fold, precision=precision, cache=cache)
    network = build_network(model.configuration, model.dataset).to(networks.device)
    load_fold(network, model, fold=fold)
    return TorchNetwork(network, device=networks.device, name=f"{model.where} fold {fold}")


def _seconds_per_window(network: Network, noise: torch.Tensor) -> float:
    """The best of some passes of a network that has run before."""
    best_s, started_s = math.inf, time.perf_counter()
    for _ in range(_MOST_PASSES):
        before_s = time.perf_counter()
        (logits,) = network([noise])
        logits.cpu()  # which waits for a GPU to end
        best_s = min(best_s, time.perf_counter() - before_s)
        if time.perf_counter() - started_s > _LEAST_S:
            break
    return best_s
