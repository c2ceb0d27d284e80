"""The challenge's six metrics of one scan, voxel by voxel as the organisers define them.

Where a metric has no number, it is None here and an empty cell in tables, and a note says why; never nan. What follows
from the definitions is kept, as the organisers' own program has it: an empty prediction on a diseased case has a Dice,
a surface Dice and a volume ratio of 0, a false-negative volume of the whole truth, and no SUVmean ratio.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from evaluation.lesionwise import Lesions, find_lesions
from evaluation.overlap import dice
from postprocessing.shapes import require_shape

Mask = npt.NDArray[np.bool_]
Box = tuple[slice, slice, slice]

NO_DISEASE = "no disease in truth or prediction: Dice, surface Dice and both ratios undefined"
PREDICTION_EMPTY = "prediction empty: Dice, surface Dice and volume ratio are 0, SUVmean ratio undefined"
TRUTH_EMPTY = "truth empty: Dice and surface Dice are 0, both ratios undefined"
NO_CONTOUR = "masks fill the whole grid and have no contour: surface Dice undefined"
NO_TRUE_SUV = "mean SUV of the truth is not > 0: SUVmean ratio undefined"


@dataclass(frozen=True)
class Metrics:
    """How well one scan's prediction agrees with its truth.

    Attributes:
        dice: 2 |prediction and truth| / (|prediction| + |truth|); None when both are empty.
        fp_volume_ml: Volume in mL of the predicted lesions (18-connected) that have no voxel of truth.
        fn_volume_ml: Volume in mL of the true lesions that have no voxel of prediction.
        surface_dice: Dice of the two masks' contour voxels, with zero tolerance; None when neither has any.
        suv_mean_ratio: Mean SUV in the prediction / mean SUV in the truth; None when either is empty.
        volume_ratio: Predicted / true volume; None when the truth is empty.
        truth_ml: True volume in mL.
        predicted_ml: Predicted volume in mL.
        truth_suv_mean: Mean SUV in the truth; None when it is empty.
        predicted_suv_mean: Mean SUV in the prediction; None when it is empty.
        true_lesions: Number of lesions of the truth.
        found_lesions: How many of those have a voxel of prediction.
        predicted_lesions: Number of lesions of the prediction.
        false_lesions: How many of those have no voxel of truth.
        notes: Why a metric is None, or what an empty mask made of the others; one sentence each.
    """

    dice: float | None
    fp_volume_ml: float
    fn_volume_ml: float
    surface_dice: float | None
    suv_mean_ratio: float | None
    volume_ratio: float | None
    truth_ml: float
    predicted_ml: float
    truth_suv_mean: float | None
    predicted_suv_mean: float | None
    true_lesions: int
    found_lesions: int
    predicted_lesions: int
    false_lesions: int
    notes: tuple[str, ...]


METRICS = tuple(field.name for field in fields(Metrics))[:6]


@dataclass(frozen=True)
class Overlap:
    """Both masks in the box that holds them, and their lesions: what every number of a scan is measured on.

    Attributes:
        shape_zyx: The grid's shape.
        box: Where in the grid, (z, y, x).
        prediction: The prediction in the box.
        truth: The truth in the box.
        predicted: The prediction's lesions, in the box.
        true: The truth's lesions, in the box.
    """

    shape_zyx: tuple[int, ...]
    box: Box
    prediction: Mask
    truth: Mask
    predicted: Lesions
    true: Lesions


def measure_masks(
    prediction: Mask,
    *,
    truth: Mask,
    pet_suv: npt.NDArray[np.floating],
    spacing_mm_zyx: tuple[float, float, float],
) -> Metrics:
    """The six metrics of one scan.

    Args:
        prediction: Predicted disease, (z, y, x).
        truth: True disease, same shape.
        pet_suv: PET in SUV, same shape.
        spacing_mm_zyx: Voxel size in mm.

    Raises:
        ValueError: Shapes differ, a mask is not boolean, or the PET has a value in a mask that is not finite.
    """
    overlap = find_overlap(prediction, truth=truth)
    return measure_overlap(overlap, pet_suv=pet_suv, spacing_mm_zyx=spacing_mm_zyx)


def find_overlap(prediction: Mask, *, truth: Mask) -> Overlap:
    """Both masks where there is anything to measure, with their lesions.

    Raises:
        ValueError: The masks are not 3D and boolean, or their shapes differ.
    """
    require_shape(prediction.shape, truth=truth)
    for name, mask in (("prediction", prediction), ("truth", truth)):
        if mask.dtype != np.bool_:
            raise ValueError(f"{name}: must be boolean, got {mask.dtype}")
    box = box_around(prediction, truth)
    inside, true_inside = prediction[box], truth[box]
    return Overlap(
        shape_zyx=truth.shape,
        box=box,
        prediction=inside,
        truth=true_inside,
        predicted=find_lesions(inside, other=true_inside),
        true=find_lesions(true_inside, other=inside),
    )


def measure_overlap(
    overlap: Overlap, *, pet_suv: npt.NDArray[np.floating], spacing_mm_zyx: tuple[float, float, float]
) -> Metrics:
    """The metrics of masks that `find_overlap` has taken apart; arguments and errors as in `measure_masks`.

    The PET is the whole grid's.
    """
    require_shape(overlap.shape_zyx, pet_suv=pet_suv)
    voxel_ml = math.prod(spacing_mm_zyx) / 1000.0
    predicted, true = overlap.predicted, overlap.true
    predicted_voxels, true_voxels = int(predicted.voxels.sum()), int(true.voxels.sum())
    contour_dice = surface_dice(overlap.prediction, truth=overlap.truth)
    suv = pet_suv[overlap.box]
    predicted_suv, true_suv = (_mean_suv(suv, mask) for mask in (overlap.prediction, overlap.truth))
    mean_ratio = predicted_suv / true_suv if predicted_suv is not None and true_suv and true_suv > 0.0 else None
    return Metrics(
        dice=float(dice(overlap.prediction, truth=overlap.truth)) if predicted_voxels + true_voxels else None,
        fp_volume_ml=predicted.untouched_voxels * voxel_ml,
        fn_volume_ml=true.untouched_voxels * voxel_ml,
        surface_dice=contour_dice,
        suv_mean_ratio=mean_ratio,
        volume_ratio=predicted_voxels / true_voxels if true_voxels else None,
        truth_ml=true_voxels * voxel_ml,
        predicted_ml=predicted_voxels * voxel_ml,
        truth_suv_mean=true_suv,
        predicted_suv_mean=predicted_suv,
        true_lesions=true.count,
        found_lesions=true.touched,
        predicted_lesions=predicted.count,
        false_lesions=predicted.count - predicted.touched,
        notes=_notes(
            has_prediction=predicted_voxels > 0,
            has_truth=true_voxels > 0,
            has_contour=contour_dice is not None,
            has_true_suv=true_suv is None or true_suv > 0.0,
        ),
    )


def surface_dice(prediction: Mask, *, truth: Mask) -> float | None:
    """Dice of contour voxels, with zero tolerance: a contour voxel agrees where the other mask has one too.

    Args:
        prediction: Predicted disease, (z, y, x): the whole grid, or a box with a margin of a voxel around both masks
            wherever the grid goes on.
        truth: True disease, same shape.

    Returns:
        A number in [0, 1]; None when neither mask has a contour.
    """
    contour, true_contour = contour_of(prediction), contour_of(truth)
    size = int(contour.sum()) + int(true_contour.sum())
    return 2.0 * int((contour & true_contour).sum()) / size if size else None


def contour_of(mask: Mask) -> Mask:
    """The voxels of a mask with a face neighbour outside it: SimpleITK's LabelContour, not fully connected.

    As there, what lies beyond the grid is no neighbour, so a mask has no contour along the grid's border.
    """
    inner = mask.copy()
    for axis in range(3):
        inner_along, mask_along = np.moveaxis(inner, axis, 0), np.moveaxis(mask, axis, 0)
        inner_along[1:] &= mask_along[:-1]
        inner_along[:-1] &= mask_along[1:]
    return mask & ~inner


def box_around(*masks: Mask) -> Box:
    """The smallest box of slices (z, y, x) around masks with a margin of a voxel, as far as the grid reaches.

    The margin keeps contours what they are on the whole grid. Masks that are all empty give the grid's first voxel.
    """
    slices = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        held = np.flatnonzero(np.logical_or.reduce([mask.any(axis=others) for mask in masks]))
        first, last = (int(held[0]), int(held[-1])) if held.size else (0, -1)
        slices.append(slice(max(first - 1, 0), min(last + 2, masks[0].shape[axis])))
    return slices[0], slices[1], slices[2]


def _mean_suv(suv: npt.NDArray[np.floating], mask: Mask) -> float | None:
    inside = suv[mask]
    if not inside.size:
        return None
    mean = float(inside.mean(dtype=np.float64))
    if not math.isfinite(mean):
        raise ValueError(f"pet_suv: must be finite where there is disease, got a mean of {mean} SUV")
    return mean


def _notes(*, has_prediction: bool, has_truth: bool, has_contour: bool, has_true_suv: bool) -> tuple[str, ...]:
    if not has_prediction:
        return (PREDICTION_EMPTY if has_truth else NO_DISEASE,)
    if not has_truth:
        return (TRUTH_EMPTY,)
    return (*(() if has_contour else (NO_CONTOUR,)), *(() if has_true_suv else (NO_TRUE_SUV,)))
