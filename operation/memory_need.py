"""How much memory a case takes beyond what is held when it has been read: sums of arrays that live at the same time.

The factors are counts of arrays in the code, and where a library holds more beside them, what was measured: peaks of
VmData, which is what RLIMIT_DATA counts, of runs on the real grids (`test/run_largest.sh`) and of single steps.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

from petct.labels import Label
from petct.manifest import Backend
from segmentation.memory_use import MemoryUse
from segmentation.openvino_network import side_by_side
from segmentation.torch_network import WINDOWS_AT_ONCE

# Prediction may be below what a run really takes by this at most: a share of it, and the C library's small change.
MARGIN_SHARE = 0.05
MARGIN_BYTES = 64 << 20

_FLOAT = 4
_CLASSES = len(Label)
# Bytes per voxel of the PET.
_LABELS = 2  # TotalSegmentator's labels and the eight classes
_PET = _FLOAT  # the copy that rules work on
_CT = _FLOAT
_MEAN = _CLASSES * _FLOAT
_RESAMPLING_CT = 16  # measured 15.4: ITK's image, its copy, a normalised channel and its copy
_BUILDING = 10  # measured 8.3: a channel, a normalised copy, a transposed copy
_OUTLINING = 10  # measured 8.0: masks, components, the box that disease grows in
_RESAMPLING_LABELS = 4
# Bytes per voxel of the box that a signed distance is computed in: ITK's filter holds nine arrays (measured 36).
_DISTANCE = 36
# Measured of OpenVINO and PyTorch: code, threads, and what they keep beside weights and features.
_ENGINE_BYTES = {Backend.OPENVINO: 350 << 20, Backend.TORCH: 200 << 20}
# Copies of the weights at the same time: OpenVINO's graph, constants and repacked ones; PyTorch's module and file.
_WEIGHT_COPIES = {Backend.OPENVINO: 3.0, Backend.TORCH: 2.0}
# What a window takes, in sizes of its first stage's features.
_FIRST_STAGES = {Backend.OPENVINO: 4.0, Backend.TORCH: 6.0}
_CUDA_WORKSPACE_BYTES = 1 << 30  # cuDNN's, in an autotuned convolution of a large window
_CUDA_HOST_BYTES = 3 << 30  # the driver's and cuDNN's private mappings, which count though hardly touched
_SLAB_BYTES = 96 << 20


@dataclass(frozen=True)
class NetworkSize:
    """One member on one scan.

    Attributes:
        name: The member's name.
        seen: What tells its channels from others'; members with an equal one share a group.
        made: What tells its preprocessed voxels from others' of the group.
        channels: How many it sees.
        voxels: Of the whole scan in its own spacing.
        padded_voxels: The same where axes shorter than the window are padded.
        window_voxels: Of its patch.
        features: Of its first stage.
        weight_bytes: A fold's weights as float32.
        folds: How many folds it has.
        has_distances: Whether organs are shown as signed distances.
    """

    name: str
    seen: Hashable
    made: Hashable
    channels: int
    voxels: int
    padded_voxels: int
    window_voxels: int
    features: int
    weight_bytes: int
    folds: int
    has_distances: bool


@dataclass(frozen=True)
class ScanSize:
    """One scan.

    Attributes:
        name: Its tracer's name.
        voxels: Of its PET.
        organ_voxels: Of the box in the PET that holds all organs and what their distances reach.
        networks: Its members, at least one.
    """

    name: str
    voxels: int
    organ_voxels: int
    networks: tuple[NetworkSize, ...]


@dataclass(frozen=True)
class Compute:
    """What computes the networks.

    Attributes:
        backend: PyTorch or OpenVINO.
        itemsize: Bytes of one number of the features.
        is_gpu: Whether there is a GPU.
        threads: Threads on the CPU; OpenVINO computes no more windows side by side.
    """

    backend: Backend
    itemsize: int
    is_gpu: bool
    threads: int


@dataclass(frozen=True)
class Need:
    """The most memory that is held at the same time, and when.

    Attributes:
        where: The scan, the member and the stage ("PSMA resenc_l_921 network").
        host_bytes: Of the host.
        gpu_bytes: Of the GPU.
    """

    where: str
    host_bytes: int
    gpu_bytes: int


def predict_need(scans: Sequence[ScanSize], *, use: MemoryUse, compute: Compute) -> Need:
    """The most that a case takes from when it has been read, with its organ maps, to its masks.

    Args:
        scans: Both scans, in the order in which they are predicted.
        use: What is held at the same time.
        compute: What computes the networks.

    Returns:
        The peak of the host and that of the GPU, with the name of the host's.
    """
    on_gpu = compute.is_gpu and not use.is_network_on_host
    fixed = sum(_LABELS * scan.voxels for scan in scans)
    fixed += _ENGINE_BYTES[compute.backend] + (_CUDA_HOST_BYTES if compute.is_gpu else 0)
    stages: list[Need] = []
    for number, scan in enumerate(scans):
        # The first fold of every scan is computed before the rest of any, for a first pair of masks.
        others = sum(_kept(other, use=use) + _begun(other) for other in scans if other is not scan)
        if use.is_overlapped and number > 0:
            others += (_MEAN + _OUTLINING) * scans[number - 1].voxels
        own = fixed + others + _kept(scan, use=use)
        for stage in _stages(scan, use=use, compute=compute, on_gpu=on_gpu):
            stages.append(Need(f"{scan.name} {stage.where}", own + stage.host_bytes, stage.gpu_bytes))
    highest = max(stages, key=lambda stage: stage.host_bytes)
    return Need(highest.where, highest.host_bytes, max(stage.gpu_bytes for stage in stages))


def _stages(scan: ScanSize, *, use: MemoryUse, compute: Compute, on_gpu: bool) -> Iterator[Need]:
    """What a scan's stages take one by one, beside what is kept."""
    groups = _groups(scan, use=use)
    mean = _MEAN * scan.voxels
    for number, group in enumerate(groups):
        data = _data(group)
        making = data + _making(scan, group, is_first=number == 0)
        yield Need(f"{group[0].name} channels", mean + making, 0)
        beside = 0
        if use.is_overlapped:
            following = groups[number + 1] if number + 1 < len(groups) else None
            beside = _data(following) + _making(scan, following, is_first=False) if following else 0
            beside = max(beside, _SLAB_BYTES)
        last = None
        for network in group:
            put_away = _CLASSES * _FLOAT * last.voxels if last is not None and use.is_overlapped else 0
            sums = (_CLASSES + 1) * _FLOAT * network.padded_voxels
            sums += _CLASSES * _FLOAT * network.voxels if network.folds > 1 else 0
            if network.padded_voxels > network.voxels:
                put_away += network.channels * _FLOAT * network.padded_voxels
            window, weights = _window(network, use=use, compute=compute, on_gpu=on_gpu)
            on_host = mean + data + beside + put_away + (sums if use.is_sum_on_host or not on_gpu else 0)
            gpu = (0 if use.is_sum_on_host else sums) + window + weights if on_gpu else 0
            on_host += weights if on_gpu else window + weights
            yield Need(f"{network.name} network", on_host, gpu)
            yield Need(f"{network.name} probabilities", mean + data + _begun_bytes(network) + _SLAB_BYTES, gpu)
            last = network
    yield Need("outline", mean + _OUTLINING * scan.voxels, 0)
    yield Need("organs on the PET's grid", _RESAMPLING_LABELS * scan.voxels, 0)


def _groups(scan: ScanSize, *, use: MemoryUse) -> list[list[NetworkSize]]:
    if not use.is_group_held:
        return [[network] for network in scan.networks]
    return [
        [network for network in scan.networks if network.seen == seen]
        for seen in dict.fromkeys(network.seen for network in scan.networks)
    ]


def _kept(scan: ScanSize, *, use: MemoryUse) -> int:
    """What is kept as long as the case is computed: the PET, the CT on its grid, and both as networks see them."""
    remembered = {network.voxels for network in scan.networks} if use.are_channels_remembered else set()
    return (_PET + _CT) * scan.voxels + sum(2 * _FLOAT * voxels for voxels in remembered)


def _begun(scan: ScanSize) -> int:
    """A scan's first fold, while the other scan is computed: what its group sees, and logits."""
    first = scan.networks[0]
    group = [network for network in scan.networks if network.seen == first.seen]
    return _data(group) + _begun_bytes(first)


def _begun_bytes(network: NetworkSize) -> int:
    return _CLASSES * _FLOAT * network.voxels


def _data(group: Sequence[NetworkSize]) -> int:
    """What the members of a group see, made once for those that see the same."""
    made = {network.made: network.channels * network.voxels for network in group}
    return _FLOAT * sum(made.values())


def _making(scan: ScanSize, group: Sequence[NetworkSize], *, is_first: bool) -> int:
    """What making channels takes beside them."""
    distances = _DISTANCE * scan.organ_voxels if any(network.has_distances for network in group) else 0
    # A channel as a network sees it, too, before it lies in its place.
    voxels = 2 * _FLOAT * max(network.voxels for network in group)
    building = _BUILDING * scan.voxels + distances
    return voxels + (max(_RESAMPLING_CT * scan.voxels, building) if is_first else building)


def _window(network: NetworkSize, *, use: MemoryUse, compute: Compute, on_gpu: bool) -> tuple[int, int]:
    """What the windows that are computed at a time take, and what the weights take."""
    itemsize = compute.itemsize if on_gpu or compute.backend is Backend.OPENVINO else _FLOAT
    first_stage = network.features * network.window_voxels * itemsize
    together = WINDOWS_AT_ONCE["cuda" if on_gpu else "cpu"]
    if compute.backend is Backend.OPENVINO:
        together = min(side_by_side(first_stage), compute.threads)
    together = min(together, use.windows_at_once or together)
    shown = 2 * together * network.channels * network.window_voxels * _FLOAT
    window = math.ceil(_FIRST_STAGES[compute.backend] * first_stage) * together + shown
    workspace = _CUDA_WORKSPACE_BYTES if on_gpu else 0
    return window + workspace, math.ceil(_WEIGHT_COPIES[compute.backend] * network.weight_bytes)
