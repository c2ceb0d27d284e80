"""How well a manifest does on patients whose truth is known: Dice per tracer, and of the organs that it computes."""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from evaluation.overlap import dice, mean_dice, organ_dice
from inference import segment_case
from petct.case import Scan, Tracer
from petct.errors import CaseError
from petct.folders import read_case, read_truth
from petct.geometry import check_same_grid, grid_of, resample_labels, to_array
from petct.manifest import Manifest
from petct.organs import Organ, collapse
from petct.written_whole import written_whole
from segmentation.organ_maps import OrganSource

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Score:
    """One scan's agreement with its truth, on the PET's grid.

    Attributes:
        case: The patient.
        tracer: The tracer.
        ttb_dice: Dice of the final mask.
        truth_ml: True volume in mL.
        predicted_ml: Predicted volume in mL.
        organ_dice: Dice of each of the eight organ classes.
    """

    case: str
    tracer: Tracer
    ttb_dice: float
    truth_ml: float
    predicted_ml: float
    organ_dice: dict[Organ, float]


def judge(patients: Sequence[Path], *, manifest: Manifest, device: torch.device) -> list[Score]:
    """Run the product on patients of the training set's layout, with organs computed, and compare with their truth.

    Args:
        patients: Patient folders with truth and true organ maps.
        manifest: What to run.
        device: Where to run it.

    Raises:
        CaseError: A patient is broken, or has no truth or organ map.
    """
    scores = []
    for number, patient in enumerate(patients, start=1):
        case = read_case(patient)
        truths = {scan.tracer: _read_truth(patient, scan) for scan in (case.psma, case.fdg)}
        found = segment_case(case, manifest=manifest, organ_source=OrganSource.TOTALSEGMENTATOR, device=device)
        for tracer, segmented in found.items():
            true_ttb, true_labels = truths[tracer]
            score = Score(
                case=patient.name,
                tracer=tracer,
                ttb_dice=dice(segmented.ttb, truth=true_ttb),
                truth_ml=float(true_ttb.sum() * segmented.grid.voxel_ml),
                predicted_ml=float(segmented.ttb.sum() * segmented.grid.voxel_ml),
                organ_dice=organ_dice(collapse(segmented.labels), truth=collapse(true_labels)),
            )
            scores.append(score)
            log.info(
                "%s %s (%d of %d): Dice %.3f, organs %.3f",
                *(patient.name, tracer.name, number, len(patients)),
                *(score.ttb_dice, mean_dice(score.organ_dice)),
            )
    return scores


def table(scores: Sequence[Score]) -> str:
    """The scores as a Markdown table per scan, and one of the organs' means."""
    lines = ["| patient | tracer | truth mL | found mL | Dice | organs |", "|---|---|---:|---:|---:|---:|"]
    lines += [
        f"| {score.case} | {score.tracer.name} | {score.truth_ml:.0f} | {score.predicted_ml:.0f} "
        f"| {score.ttb_dice:.3f} | {mean_dice(score.organ_dice):.3f} |"
        for score in scores
    ]
    for tracer in Tracer:
        of_tracer = [score for score in scores if score.tracer is tracer]
        lines.append(
            f"| **mean** | {tracer.name} | {_mean([s.truth_ml for s in of_tracer]):.0f} "
            f"| {_mean([s.predicted_ml for s in of_tracer]):.0f} | **{_mean([s.ttb_dice for s in of_tracer]):.3f}** "
            f"| **{_mean([mean_dice(s.organ_dice) for s in of_tracer]):.3f}** |"
        )
    lines += ["", "| organ | mean Dice |", "|---|---:|"]
    lines += [
        f"| {organ.name.lower().replace('_', ' ')} | {_mean([score.organ_dice[organ] for score in scores]):.3f} |"
        for organ in Organ
    ]
    return "\n".join(lines)


def write_csv(scores: Sequence[Score], file: Path) -> None:
    """Every score as a line of CSV."""
    with written_whole(file) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        organs = [f"dice_{organ.name.lower()}" for organ in Organ]
        writer.writerow(["case", "tracer", "dice", "truth_ml", "predicted_ml", *organs])
        for score in scores:
            numbers = [score.ttb_dice, score.truth_ml, score.predicted_ml, *score.organ_dice.values()]
            writer.writerow([score.case, score.tracer.value, *(f"{number:.4f}" for number in numbers)])


def _read_truth(patient: Path, scan: Scan) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.uint8]]:
    """True disease and true TotalSegmentator labels of a scan, (z, y, x) on the PET's grid."""
    where = f"{patient.name} {scan.tracer}"
    if scan.organs is None:
        raise CaseError(where, "organ map totseg_24.nii.gz is missing")
    grid = grid_of(scan.pet)
    truth = read_truth(patient, scan.tracer)
    check_same_grid(grid_of(truth), grid, where=f"{where} TTB", name="the PET")
    return to_array(truth) > 0, to_array(resample_labels(scan.organs, grid))


def _mean(values: Sequence[float]) -> float:
    """Mean of what is defined; nan when nothing is."""
    defined = [value for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan
