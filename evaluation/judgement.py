"""Judging one scan: the truth against the prediction of every run, from files to numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from evaluation.folders import PredictionFiles, TruthFiles
from evaluation.lesionwise import LesionScores, score_lesions
from evaluation.metrics import Box, Mask, Metrics, find_overlap, measure_overlap
from evaluation.regions import RegionVolumes, measure_regions, region_map
from petct.case import Tracer
from petct.errors import CaseError
from petct.geometry import Grid, check_same_grid, grid_of, resample_labels, to_array
from petct.images import read_image
from petct.scan_files import CaseFile


@dataclass(frozen=True)
class Judgement:
    """What one run's prediction of one scan is worth.

    Attributes:
        run: The run's name.
        case: The patient.
        tracer: The scan.
        metrics: The challenge's six metrics and what they are made of.
        regions: Volumes by region of the body; None without an organ map.
        suv_scores: Lesions scored by the SUVmax of the predicted lesion.
        probability_scores: The same by the highest probability in it; None without a probability map.
    """

    run: str
    case: str
    tracer: Tracer
    metrics: Metrics
    regions: Mapping[str, RegionVolumes] | None
    suv_scores: LesionScores
    probability_scores: LesionScores | None


@dataclass(frozen=True)
class LeftOut:
    """A scan that could not be judged.

    Attributes:
        run: The run whose prediction it is; None when it is the truth, and no run is judged on it.
        case: The patient.
        tracer: The scan.
        reason: File, rule and value in one line.
        is_missing: Whether there is no prediction, rather than one that is refused.
    """

    run: str | None
    case: str
    tracer: Tracer
    reason: str
    is_missing: bool = False


@dataclass(frozen=True)
class Outcome:
    """All that came of one scan.

    Attributes:
        case: The patient.
        tracer: The scan.
        judgements: One per run that could be judged, in the order of the runs.
        left_out: The rest.
        warnings: What is odd but does not change a metric: an organ map that cannot be used.
    """

    case: str
    tracer: Tracer
    judgements: tuple[Judgement, ...]
    left_out: tuple[LeftOut, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Truth:
    mask: Mask
    pet_suv: npt.NDArray[np.floating]
    grid: Grid
    organs: sitk.Image | None


def judge_scan(files: TruthFiles, *, predictions: Mapping[str, PredictionFiles]) -> Outcome:
    """Judge every run's prediction of a scan; what cannot be judged is left out by name.

    Args:
        files: The truth.
        predictions: Each run's files.
    """
    case, tracer = files.case, files.tracer
    warnings: list[str] = []
    try:
        truth = _read_truth(files, warnings)
    except CaseError as error:
        return Outcome(case, tracer, (), (LeftOut(None, case, tracer, str(error)),))
    judgements, left_out = [], []
    for run, prediction in predictions.items():
        try:
            judgements.append(_judge(run, prediction, files=files, truth=truth, warnings=warnings))
        except CaseError as error:
            left_out.append(LeftOut(run, case, tracer, str(error)))
    return Outcome(case, tracer, tuple(judgements), tuple(left_out), tuple(dict.fromkeys(warnings)))


def read_mask(file: CaseFile, *, grid: Grid) -> Mask:
    """A mask on the PET's grid, as the challenge wants it: 0 and 1 only.

    Any other value is refused rather than taken for disease: it may be a network's label of normal uptake (2), lesion
    numbers or a probability, and the organisers' own program counts values.

    Raises:
        CaseError: It cannot be read, is on another grid, or holds another value.
    """
    image = read_image(file.path, where=file.where)
    check_same_grid(grid_of(image), grid, where=file.where, name="the PET")
    values = to_array(image)
    mask: Mask = values == 1
    wrong = values[~mask & (values != 0)]
    if wrong.size:
        raise CaseError(file.where, "mask must hold 0 and 1 only", f"{wrong[0]:g} in {wrong.size} voxels")
    return mask


def _read_truth(files: TruthFiles, warnings: list[str]) -> _Truth:
    pet_suv, grid = _read_finite(files.pet)
    mask = read_mask(files.truth, grid=grid)
    organs = None
    if files.organs is not None:
        try:
            organs = read_image(files.organs.path, where=files.organs.where)
        except CaseError as error:
            warnings.append(str(error))
    return _Truth(mask=mask, pet_suv=pet_suv, grid=grid, organs=organs)


def _read_finite(file: CaseFile) -> tuple[npt.NDArray[np.floating], Grid]:
    image = read_image(file.path, where=file.where)
    values = to_array(image)
    if not np.isfinite(values).all():
        raise CaseError(file.where, "every voxel must be finite", "nan or infinite voxels")
    return values, grid_of(image)


def _judge(
    run: str, prediction: PredictionFiles, *, files: TruthFiles, truth: _Truth, warnings: list[str]
) -> Judgement:
    overlap = find_overlap(read_mask(prediction.mask, grid=truth.grid), truth=truth.mask)
    probability_scores = None
    if prediction.probability is not None:
        probability, grid = _read_finite(prediction.probability)
        check_same_grid(grid, truth.grid, where=prediction.probability.where, name="the PET")
        probability_scores = score_lesions(overlap.predicted, true=overlap.true, values=probability[overlap.box])
    regions = None
    if truth.organs is not None and files.organs is not None:
        try:
            labels = resample_labels(truth.organs, _box_grid(truth.grid, overlap.box))
            region = region_map(labels, where=files.organs.where)
            regions = measure_regions(overlap, regions=region, voxel_ml=truth.grid.voxel_ml)
        except CaseError as error:
            warnings.append(str(error))
    return Judgement(
        run=run,
        case=files.case,
        tracer=files.tracer,
        metrics=measure_overlap(overlap, pet_suv=truth.pet_suv, spacing_mm_zyx=truth.grid.spacing_mm_zyx),
        regions=regions,
        suv_scores=score_lesions(overlap.predicted, true=overlap.true, values=truth.pet_suv[overlap.box]),
        probability_scores=probability_scores,
    )


def _box_grid(grid: Grid, box: Box) -> Grid:
    """The grid of a box in a grid."""
    z, y, x = box
    return replace(
        grid,
        shape_zyx=(z.stop - z.start, y.stop - y.start, x.stop - x.start),
        origin_mm_xyz=grid.position_mm_xyz((z.start, y.start, x.start)),
    )
