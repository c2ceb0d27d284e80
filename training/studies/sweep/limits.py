"""What a scan's mask is worth for every pair of limits on P(ttb) and P(normal), as the product itself would draw it.

The product's own `threshold` and `regrow` run once per limit on P(ttb), in the box that disease can reach. As the
limit rises, seeds only become fewer, and so do the voxels that they grow onto: a voxel's *level*, the number of limits
up to which it is reached, says it all. A limit on P(normal) takes voxels away afterwards. So no pair of limits needs a
mask of its own; lesions are joined from level to level on the voxels that are ever reached.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from petct.labels import Label
from petct.manifest import TracerSettings
from postprocessing.lesions import label_lesions
from postprocessing.regrow import regrow
from postprocessing.shapes import require_shape
from postprocessing.threshold import threshold
from training.studies.out_of_fold.probabilities import FLOOR, Candidates

Mask = npt.NDArray[np.bool_]
Whole = npt.NDArray[np.integer]
Float = npt.NDArray[np.float64]
Box = tuple[slice, slice, slice]

# One of each pair of opposite steps to the 18 neighbours of a lesion's voxel, (z, y, x).
_STEPS = ((0, 0, 1), (0, 1, -1), (0, 1, 0), (0, 1, 1), (1, -1, 0), (1, 0, -1), (1, 0, 0), (1, 0, 1), (1, 1, 0))

_NUMBER = np.int32  # of a voxel: a box has far fewer than 2^31, and their pairs are what fills the memory


@dataclass(frozen=True)
class Sweep:
    """A scan's scores; row i is for the i-th limit on P(ttb), column j for the j-th on P(normal).

    Attributes:
        dice: Dice; nan where truth and mask are empty.
        fp_volume_ml: Volume in mL of lesions of the mask without a voxel of truth.
        fn_volume_ml: Volume in mL of lesions of the truth without a voxel of the mask.
    """

    dice: Float
    fp_volume_ml: Float
    fn_volume_ml: Float


def sweep_scan(
    candidates: Candidates,
    *,
    truth: Mask,
    settings: TracerSettings,
    ttb_limits: Sequence[float],
    normal_limits: Sequence[float],
) -> Sweep:
    """Scores of a scan over both limits, before any refinement; exactly those of `inference.outline`'s masks.

    Args:
        candidates: The scan's probabilities.
        truth: True disease, (z, y, x).
        settings: Radius of regrowing and protected organs; its own limits are not used.
        ttb_limits: Limits on P(ttb), rising, none below the floor at which probabilities were kept.
        normal_limits: Limits on P(normal), rising.

    Raises:
        ValueError: The truth has another shape, or limits do not rise or are below the floor.
    """
    for name, limits in (("ttb_limits", ttb_limits), ("normal_limits", normal_limits)):
        if not limits or any(b <= a for a, b in pairwise(limits)):
            raise ValueError(f"{name}: must rise, got {limits}")
    if ttb_limits[0] < FLOOR:
        raise ValueError(f"ttb_limits: must be >= {FLOOR}, at which probabilities were kept, got {ttb_limits[0]}")
    require_shape(candidates.grid.shape_zyx, truth=truth)
    box = _reach(candidates, ttb_limit=ttb_limits[0], radius_mm=settings.regrow_radius_mm)
    level, normal_level = _levels(
        candidates, box=box, settings=settings, ttb_limits=ttb_limits, normal_limits=normal_limits
    )
    lesions, lesion_count = label_lesions(truth)
    lesion_voxels = np.bincount(lesions.ravel(), minlength=lesion_count + 1)[1:]
    place = np.nonzero(level)
    level_of, normal_level_of, lesion_of = level[place], normal_level[place], lesions[box][place]
    pairs = _neighbours(level > 0)
    sweeps = []
    for column in range(len(normal_limits)):
        kept = level_of * (normal_level_of <= column)
        predicted = _at_or_above(kept, count=len(ttb_limits))
        both = _at_or_above(kept * (lesion_of > 0), count=len(ttb_limits))
        found = np.zeros(lesion_count + 1, dtype=kept.dtype)
        np.maximum.at(found, lesion_of, kept)
        missed = lesion_voxels.sum() - _at_or_above(found[1:], count=len(ttb_limits), weights=lesion_voxels)
        false = _false_voxels(kept, is_true=lesion_of > 0, pairs=pairs, count=len(ttb_limits))
        size = predicted + lesion_voxels.sum()
        with np.errstate(invalid="ignore"):
            sweeps.append((np.where(size > 0, 2.0 * both / size, math.nan), false, missed))
    dice, false_voxels, missed_voxels = (np.stack(part, axis=1) for part in zip(*sweeps, strict=True))
    voxel_ml = candidates.grid.voxel_ml
    return Sweep(dice=dice, fp_volume_ml=false_voxels * voxel_ml, fn_volume_ml=missed_voxels * voxel_ml)


def _reach(candidates: Candidates, *, ttb_limit: float, radius_mm: float) -> Box:
    """The box that disease can grow onto; one voxel when there is no seed."""
    shape = candidates.grid.shape_zyx
    seeds = np.unravel_index(candidates.index[candidates.ttb > ttb_limit], shape)
    if not seeds[0].size:
        return slice(0, 1), slice(0, 1), slice(0, 1)
    margin = [math.floor(radius_mm / mm) + 1 for mm in candidates.grid.spacing_mm_zyx]
    z, y, x = (
        slice(max(int(axis.min()) - more, 0), min(int(axis.max()) + more + 1, size))
        for axis, more, size in zip(seeds, margin, shape, strict=True)
    )
    return z, y, x


def _levels(
    candidates: Candidates,
    *,
    box: Box,
    settings: TracerSettings,
    ttb_limits: Sequence[float],
    normal_limits: Sequence[float],
) -> tuple[Whole, Whole]:
    """Per voxel of the box the number of limits on P(ttb) up to which it is reached, and that P(normal) is above."""
    probabilities = np.zeros((len(Label), *(axis.stop - axis.start for axis in box)), dtype=np.float32)
    probabilities[Label.TTB] = _dense(candidates, candidates.ttb, box=box)
    probabilities[Label.NORMAL] = _dense(candidates, candidates.normal, box=box)
    organs = _dense(candidates, candidates.organs, box=box)
    # Regrowing asks the PET only whether a voxel is at or above the threshold, and that is what is kept of it.
    is_hot = _dense(candidates, candidates.is_hot, box=box).astype(np.float32)
    nothing = np.zeros(organs.shape, dtype=bool)
    level = np.zeros(organs.shape, dtype=np.min_scalar_type(len(ttb_limits)))
    for limit in ttb_limits:
        level += regrow(
            threshold(probabilities, ttb_probability=limit, normal_probability=1.0).ttb,
            normal=nothing,
            pet_suv=is_hot,
            organs=organs,
            suv_threshold=1.0,
            radius_mm=settings.regrow_radius_mm,
            protected=settings.protected_organs,
            spacing_mm_zyx=candidates.grid.spacing_mm_zyx,
        )
    normal_level = np.zeros(organs.shape, dtype=np.min_scalar_type(len(normal_limits)))
    for limit in normal_limits:
        normal_level += threshold(probabilities, ttb_probability=1.0, normal_probability=limit).normal
    return level, normal_level


def _dense(candidates: Candidates, values: npt.NDArray[Any], *, box: Box) -> npt.NDArray[Any]:
    """Values of the candidates as an array of the box, 0 elsewhere."""
    place = np.array(np.unravel_index(candidates.index, candidates.grid.shape_zyx))
    start, stop = (np.array([getattr(axis, end) for axis in box])[:, None] for end in ("start", "stop"))
    inside = ((place >= start) & (place < stop)).all(axis=0)
    dense = np.zeros(tuple((stop - start).ravel()), dtype=values.dtype)
    dense[tuple(place[:, inside] - start)] = values[inside]
    return dense


def _neighbours(mask: Mask) -> Whole:
    """Pairs of 18-connected voxels of a mask, by their numbers in the order of np.nonzero; shape (2, n)."""
    number = np.pad(np.full(mask.shape, -1, dtype=_NUMBER), 1, constant_values=-1)
    place = np.array(np.nonzero(mask)) + 1
    number[tuple(place)] = np.arange(place.shape[1], dtype=_NUMBER)
    pairs = [np.empty((2, 0), dtype=_NUMBER)]
    for step in _STEPS:
        neighbour = number[tuple(place + np.array(step)[:, None])]
        is_there = neighbour >= 0
        pairs.append(np.array([np.flatnonzero(is_there), neighbour[is_there]], dtype=_NUMBER))
    return np.concatenate(pairs, axis=1)


def _at_or_above(levels: Whole, *, count: int, weights: Whole | None = None) -> Whole:
    """For each limit, the (weighted) number of levels that reach it; shape (count,)."""
    at = np.bincount(levels, weights=weights, minlength=count + 1).astype(np.int64)
    return at[::-1].cumsum()[::-1][1:]


def _false_voxels(levels: Whole, *, is_true: Mask, pairs: Whole, count: int) -> Whole:
    """For each limit, the number of voxels in lesions without a true voxel; shape (count,).

    From the highest limit to the lowest, lesions only grow and join: each step joins those of the step before.
    """
    lesion = np.arange(len(levels), dtype=_NUMBER)
    joined_at = levels[pairs].min(axis=0, initial=count)
    false = np.zeros(count, dtype=np.int64)
    for limit in range(count, 0, -1):
        one, other = lesion[pairs[:, joined_at == limit]]
        graph = coo_array((np.ones(one.size, dtype=bool), (one, other)), shape=(len(levels), len(levels)))
        lesion = connected_components(graph, directed=False)[1][lesion]
        is_reached = levels >= limit
        is_found = np.zeros(len(levels) + 1, dtype=bool)
        is_found[lesion[is_reached & is_true]] = True
        false[limit - 1] = np.count_nonzero(is_reached & ~is_found[lesion])
    return false
