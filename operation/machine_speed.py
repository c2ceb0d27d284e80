"""How fast this machine computes, from a few convolutions: enough to know by how much a case fits in its time."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from petct.manifest import Backend, Mode
from segmentation.networks import choose_precision
from segmentation.openvino_network import ComputePrecision
from segmentation.running import Running

# Measured on two cores of a Zen 4: plain, ResEnc-M and ResEnc-L of the challenge's size, PyTorch with float32.
REFERENCE_FLOPS_PER_S = 1.1e11
# The same with OpenVINO, beside PyTorch.
_OPENVINO_SPEEDUP = {ComputePrecision.FLOAT32: 1.7, ComputePrecision.BFLOAT16: 3.6}
# Networks are slower than their convolutions alone, which norms and copies come on top of.
_NETWORK_EFFICIENCY = 0.8

_FEATURES = 32
_VOLUMES = {"cpu": (24, 32, 40), "cuda": (64, 96, 96)}  # 1.7 and 33 GFLOP; smaller ones are computed less well
_MEASURED_S = 0.06
_MOST_RUNS = 5
# A busy machine measures slow for moments; nothing beside the networks is ever so slow.
LEAST_SLOWNESS, MOST_SLOWNESS = 0.5, 10.0


@dataclass(frozen=True)
class MachineSpeed:
    """How fast a machine computes.

    Attributes:
        torch_flops_per_s: Operations of networks in PyTorch, on the device they run on.
        slowness: How many times longer than the reference machine's two cores the host takes for other work.
    """

    torch_flops_per_s: float
    slowness: float

    def flops_per_s(self, running: Running, *, mode: Mode) -> float:
        """Operations of networks as a run in a mode computes them."""
        if running.backend is not Backend.OPENVINO:
            return self.torch_flops_per_s
        return self.torch_flops_per_s * _OPENVINO_SPEEDUP[choose_precision(mode, backend=running.backend)]


def measure_speed(device: torch.device, window: Sequence[int] | None = None) -> MachineSpeed:
    """Measure this machine: about a tenth of a second on a CPU, as much again on a GPU.

    Args:
        device: Where networks run.
        window: Measure once with half a window of this size, as a network's first stage has it, which is nearer to what
            networks do and takes a twentieth of their time; None for the quick way.
    """
    host = _convolutions_per_s(torch.device("cpu"), volume=_VOLUMES["cpu"])
    network = host
    if window is not None:
        network = _convolutions_per_s(device, volume=(max(window[0] // 2, 1), *window[1:]))
    elif device.type != "cpu":
        network = _convolutions_per_s(device, volume=_VOLUMES[device.type])
    slowness = min(max(REFERENCE_FLOPS_PER_S / host, LEAST_SLOWNESS), MOST_SLOWNESS)
    return MachineSpeed(torch_flops_per_s=_NETWORK_EFFICIENCY * network, slowness=slowness)


@torch.no_grad()
def _convolutions_per_s(device: torch.device, *, volume: Sequence[int]) -> float:
    """Floating-point operations per second of the convolution that networks spend most time in: the best of a few."""
    layer = torch.nn.Conv3d(_FEATURES, _FEATURES, 3, padding=1, device=device)
    seen = torch.ones(1, _FEATURES, *volume, device=device)
    flops = 2.0 * _FEATURES**2 * 27 * math.prod(volume)
    best_s, measured_s = math.inf, 0.0
    with torch.autocast(device.type, enabled=device.type == "cuda"):
        if device.type == "cuda":
            layer(seen)  # the first call chooses how to compute it
        for _ in range(_MOST_RUNS):
            _wait(device)
            started_s = time.perf_counter()
            layer(seen)
            _wait(device)
            seconds = time.perf_counter() - started_s
            best_s, measured_s = min(best_s, seconds), measured_s + seconds
            if measured_s > _MEASURED_S:
                break
    return flops / best_s


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
