"""Instance normalisation in float32 as exact as PyTorch's.

OpenVINO's `MVN` adds up a channel's voxels one after the other, in float32. With 10^5 voxels and more the mean is then
wrong by 1e-4 of itself, and normalising divides that by the standard deviation, which in a window of air is small:
logits were wrong by 0.2 to 0.4 there and by 0.03 in a window that is air in part, with PyTorch at 2e-5. Sums of blocks,
then added up, are as exact as PyTorch's and take 3 to 6 % of the network's time. In bfloat16, whose rounding is
larger than that, nothing would be gained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from segmentation.openvino_package import load_openvino

_LONGEST_BLOCK = 8  # voxels along an axis; 8 x 8 x 8 of them are added up first


def sum_in_blocks(graph: Any) -> None:
    """Replace every `MVN` of an openvino `Model`, in place, by its own formula with means of means of blocks.

    Raises:
        ValueError: An `MVN` is not the instance normalisation of a network with three axes.
    """
    ops = load_openvino().opset13

    def mean(voxels: Any) -> Any:
        block = _block(list(voxels.shape)[2:])
        # Blocks are of one size, so the mean of their means is the mean.
        means = ops.avg_pool(voxels, block, [0, 0, 0], [0, 0, 0], block, True)
        # Not ReduceMean alone, axis by axis: OpenVINO would see through it and put its MVN back.
        return ops.reduce_mean(means, np.array([2, 3, 4]), True).output(0)

    for norm in [node for node in graph.get_ordered_ops() if node.get_type_name() == "MVN"]:
        attributes = norm.get_attributes()
        axes = sorted(int(axis) % 5 for axis in norm.input_value(1).get_node().data.ravel())
        rank = len(norm.input_value(0).shape)
        if (rank, axes, attributes["normalize_variance"], attributes["eps_mode"].upper()) != (
            5,
            [2, 3, 4],
            True,
            "INSIDE_SQRT",
        ):
            raise ValueError(f"{norm.get_friendly_name()} must be an instance normalisation, got {attributes}")
        voxels = norm.input_value(0)
        centred = ops.subtract(voxels, mean(voxels)).output(0)
        variance = mean(ops.multiply(centred, centred).output(0))
        deviation = ops.sqrt(ops.add(variance, np.float32(attributes["eps"])))
        normal = ops.multiply(centred, ops.divide(np.float32(1.0), deviation))
        normal.set_friendly_name(norm.get_friendly_name())
        norm.output(0).replace(normal.output(0))
    graph.validate_nodes_and_infer_types()


def _block(shape: Sequence[int]) -> list[int]:
    """The largest blocks that fill an array of this shape."""
    return [max(size for size in range(1, _LONGEST_BLOCK + 1) if length % size == 0) for length in shape]
