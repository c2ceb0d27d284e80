"""How long one window of a real-size network takes, in a process of its own, so that its peak memory is its own."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch

from benchmark.real_networks import RANDOM_FOLD, RealNetwork
from petct.channels import OrganEncoding, channel_names
from petct.manifest import Backend
from petct.memory import peak_bytes
from segmentation.sliding_window import all_mirrorings

SEED = 20251123  # any number; random weights and voxels of a run are those of the next
_MIB = 1 << 20


class NetworkPrecision(StrEnum):
    """What the network computes with; weights are float32, and with the halves torch's autocast decides per layer.

    On CUDA torch computes float32 convolutions with TF32's 10 bits of fraction unless told otherwise, and here as well.
    """

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


@dataclass(frozen=True)
class Setting:
    """What is timed.

    Attributes:
        network: The network.
        encoding: How it sees organs, which says how many channels it has.
        backend: What computes it, torch or OpenVINO.
        precision: What it computes with.
        device: Where.
        flips_at_once: How many mirrorings of a window are computed together.
        mirrorings: How many mirrorings of a window are averaged, each with a forward pass; 1 is none but the window.
        windows: How often a window is timed.
        warm_up: How many windows come before, untimed.
        threads: Threads on the CPU; None leaves that to torch.
    """

    network: RealNetwork
    encoding: OrganEncoding
    backend: Backend
    precision: NetworkPrecision
    device: str
    flips_at_once: int
    mirrorings: int
    windows: int
    warm_up: int
    threads: int | None

    def described(self) -> dict[str, Any]:
        """As JSON values; the network by its name."""
        content = {key: value for key, value in asdict(self).items() if key not in ("network", "threads")}
        return {
            "network": self.network.architecture.value,
            "patch": list(self.network.patch),
            "channels": len(channel_names(self.encoding)),
            **content,
        }


@dataclass(frozen=True)
class NetworkTiming:
    """What a setting took.

    Attributes:
        seconds_s: Each timed window, all mirrorings of it.
        load_s: Building the network and, with OpenVINO, converting and compiling it.
        peak_host_mib: The most memory that the process held, Python and its libraries included.
        peak_gpu_mib: The most memory that torch's tensors held on the GPU; None on a CPU.
        reserved_gpu_mib: The most memory that torch took of the GPU for them; None on a CPU.
        threads: Threads on the CPU.
    """

    seconds_s: tuple[float, ...]
    load_s: float
    peak_host_mib: float
    peak_gpu_mib: float | None
    reserved_gpu_mib: float | None
    threads: int

    @property
    def median_s(self) -> float:
        """Seconds per window."""
        return statistics.median(self.seconds_s)


def time_setting(setting: Setting) -> NetworkTiming:
    """Time a setting in this process.

    Raises:
        ValueError: Mirrorings are not a multiple of those computed together.
        CaseError: The backend cannot run here.
        RuntimeError: Memory does not suffice.
    """
    if setting.mirrorings % setting.flips_at_once:
        raise ValueError(f"mirrorings must be a multiple of {setting.flips_at_once}, got {setting.mirrorings}")
    if setting.threads is not None:
        torch.set_num_threads(setting.threads)
    torch.manual_seed(SEED)
    device = torch.device(setting.device)
    started_s = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="benchmark-networks-") as folder, torch.inference_mode():
        network = _open(setting, device=device, folder=Path(folder))
        load_s = time.perf_counter() - started_s
        window = torch.randn((len(channel_names(setting.encoding)), *setting.network.patch)).to(device)
        flips = all_mirrorings((0, 1, 2))[: setting.mirrorings]
        with torch.backends.cudnn.flags(enabled=True, benchmark=True):
            seconds_s = [
                _time(lambda: predict_window(network, window, flips=flips, at_once=setting.flips_at_once), device)
                for _ in range(setting.warm_up + setting.windows)
            ][setting.warm_up :]
    on_gpu = device.type == "cuda"
    return NetworkTiming(
        seconds_s=tuple(seconds_s),
        load_s=load_s,
        peak_host_mib=peak_bytes() / _MIB,
        peak_gpu_mib=torch.cuda.max_memory_allocated(device) / _MIB if on_gpu else None,
        reserved_gpu_mib=torch.cuda.max_memory_reserved(device) / _MIB if on_gpu else None,
        threads=torch.get_num_threads(),
    )


def predict_window(
    network: Callable[[Sequence[torch.Tensor]], list[torch.Tensor]],
    window: torch.Tensor,
    *,
    flips: Sequence[Sequence[int]],
    at_once: int,
) -> torch.Tensor:
    """Logits of one window averaged over its mirrorings, (class, and three axes).

    Args:
        network: The network.
        window: The window, (channel, and three axes).
        flips: Spatial axes (0, 1, 2) that each mirroring flips.
        at_once: Mirrorings that the network is given together.
    """
    total: torch.Tensor | None = None
    for first in range(0, len(flips), at_once):
        together = [[axis + 1 for axis in flipped] for flipped in flips[first : first + at_once]]
        for axes, logits in zip(together, network([torch.flip(window, axes) for axes in together]), strict=True):
            restored = torch.flip(logits, axes)
            total = restored if total is None else total.add_(restored)
    if total is None:
        raise ValueError("flips must hold at least one entry, () for none")
    return total.div_(len(flips))


def _time(action: Callable[[], object], device: torch.device) -> float:
    """Seconds of an action with all that it leaves to the GPU."""
    _finish(device)
    started_s = time.perf_counter()
    action()
    _finish(device)
    return time.perf_counter() - started_s


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _open(
    setting: Setting, *, device: torch.device, folder: Path
) -> Callable[[Sequence[torch.Tensor]], list[torch.Tensor]]:
    """The network as its backend computes it; OpenVINO reads a packed model, which is made in the folder."""
    if setting.backend is Backend.OPENVINO:
        from segmentation.openvino_network import ComputePrecision, OpenVinoNetwork

        model = setting.network.pack(setting.encoding, folder=folder)
        return OpenVinoNetwork.compile(
            model, fold=RANDOM_FOLD, precision=ComputePrecision[setting.precision.name], cache=folder / "cache"
        )
    module = setting.network.build(setting.encoding).to(device)
    is_half = setting.precision is not NetworkPrecision.FLOAT32
    dtype = torch.float16 if setting.precision is NetworkPrecision.FLOAT16 else torch.bfloat16

    def network(windows: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        with torch.autocast(device.type, dtype=dtype, enabled=is_half):
            return list(module(torch.stack(list(windows))).float())

    return network
