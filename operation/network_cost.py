"""What one forward pass of a network costs, read off its plans in microseconds: no network is built."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from petct.labels import Label
from segmentation.packed_model import PackedModel

_FLOPS_PER_PRODUCT = 2  # one multiplication, one addition, as torch's counter has it


def window_flops(model: PackedModel) -> float:
    """Floating-point operations of one forward pass of one window, of its convolutions, where nearly all time goes."""
    return network_flops(
        model.configuration.network_arch_init_kwargs,
        window=model.configuration.patch_size,
        channels=len(model.dataset["channel_names"]),
        classes=len(Label),
    )


def network_flops(arguments: Mapping[str, Any], *, window: Sequence[int], channels: int, classes: int) -> float:
    """The same out of the arguments of a PlainConvUNet or ResidualEncoderUNet without deep supervision.

    Args:
        arguments: nnU-Net's `arch_kwargs`.
        window: Voxels along the network's three axes.
        channels: How many the network sees.
        classes: How many it tells apart.

    Returns:
        What torch.utils.flop_counter counts.
    """
    stages = int(arguments["n_stages"])
    features = _per_stage(arguments["features_per_stage"], stages)
    kernels = [_three(kernel) for kernel in _per_stage(arguments["kernel_sizes"], stages)]
    strides = [_three(stride) for stride in _per_stage(arguments["strides"], stages)]
    blocks = arguments.get("n_blocks_per_stage")
    depth = _per_stage(arguments["n_conv_per_stage"] if blocks is None else blocks, stages)
    total = 0.0
    seen, size, sizes = channels, tuple(window), []
    if blocks is not None:  # a stem before the first stage
        stem = arguments.get("stem_channels") or features[0]
        total += _convolution(seen, stem, kernel=kernels[0], voxels=math.prod(size))
        seen = stem
    for stage in range(stages):
        size = tuple(
            _strided(length, kernel=k, stride=s)
            for length, k, s in zip(size, kernels[stage], strides[stage], strict=True)
        )
        sizes.append(size)
        made, voxels = features[stage], math.prod(size)
        for _ in range(depth[stage]):
            total += _convolution(seen, made, kernel=kernels[stage], voxels=voxels)
            if blocks is not None:
                total += _convolution(made, made, kernel=kernels[stage], voxels=voxels)
                if seen != made:  # the way around the block is pooled first, and then projected
                    total += _convolution(seen, made, kernel=(1, 1, 1), voxels=voxels)
            seen = made
    convolutions = _per_stage(arguments["n_conv_per_stage_decoder"], stages - 1)
    for number, stage in enumerate(reversed(range(stages - 1))):
        kept, voxels = features[stage], math.prod(sizes[stage])
        total += _convolution(features[stage + 1], kept, kernel=strides[stage + 1], voxels=math.prod(sizes[stage + 1]))
        for seen in (2 * kept, *[kept] * (convolutions[number] - 1)):
            total += _convolution(seen, kept, kernel=kernels[stage], voxels=voxels)
    return total + _convolution(features[0], classes, kernel=(1, 1, 1), voxels=math.prod(sizes[0]))


def _convolution(seen: int, made: int, *, kernel: Sequence[int], voxels: int) -> float:
    """One convolution with so many voxels on its strided side: what it makes, or what a transposed one sees."""
    return float(_FLOPS_PER_PRODUCT * seen * made * math.prod(kernel) * voxels)


def _strided(length: int, *, kernel: int, stride: int) -> int:
    """How many voxels a convolution makes that is padded as nnU-Net's are."""
    return (length + 2 * ((kernel - 1) // 2) - kernel) // stride + 1


def _per_stage(value: Any, stages: int) -> list[Any]:
    """One entry for each stage; plans may give one for all."""
    return [value] * stages if isinstance(value, int) else list(value)


def _three(value: Any) -> tuple[int, ...]:
    return (value,) * 3 if isinstance(value, int) else tuple(value)
