"""What a run found, for people: a table per tracer and per lesion, and a picture."""

from __future__ import annotations

import argparse
import csv
import logging
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from evaluation.overlap import dice
from evaluation.picture import PicturePatient, PictureScan, draw_patients
from petct.case import Tracer
from petct.errors import CaseError
from petct.folders import read_case, read_truth
from petct.geometry import Grid, check_same_grid, grid_of, to_array
from petct.images import read_image
from petct.output import mask_file
from petct.written_whole import written_whole
from postprocessing.lesions import Lesion, label_lesions, measure_lesions

LONGEST_TABLE = 15  # lesions per tracer on the screen; the file has them all


@dataclass(frozen=True)
class Finding:
    """What was found on one tracer's scan.

    Attributes:
        tracer: The tracer.
        lesions: The lesions, largest first.
        ttb_ml: Total tumour burden in mL.
        suv_max: Highest SUV in the mask; 0 when it is empty.
        suv_mean: Mean SUV in the mask; 0 when it is empty.
        dice: Agreement with the truth, if there is one.
    """

    tracer: Tracer
    lesions: tuple[Lesion, ...]
    ttb_ml: float
    suv_max: float
    suv_mean: float
    dice: float | None


def measure_finding(
    tracer: Tracer, *, mask: npt.NDArray[np.bool_], pet: sitk.Image, truth: npt.NDArray[np.bool_] | None
) -> Finding:
    """Measure a mask on its PET.

    Args:
        tracer: The tracer.
        mask: Disease, (z, y, x).
        pet: PET in SUV on the same grid.
        truth: The true disease, same shape, or None.
    """
    pet_suv = to_array(pet)
    voxel_ml = grid_of(pet).voxel_ml
    numbered, _ = label_lesions(mask)
    lesions = measure_lesions(numbered, pet_suv=pet_suv, labels=np.zeros(mask.shape, dtype=np.uint8), voxel_ml=voxel_ml)
    inside = pet_suv[mask]
    return Finding(
        tracer=tracer,
        lesions=tuple(sorted(lesions, key=lambda lesion: -lesion.volume_ml)),
        ttb_ml=float(mask.sum() * voxel_ml),
        suv_max=float(inside.max(initial=0.0)),
        suv_mean=float(inside.mean()) if inside.size else 0.0,
        dice=None if truth is None else dice(mask, truth=truth),
    )


def print_findings(findings: list[Finding], *, masks: dict[Tracer, Path]) -> None:
    """Print the tables: a line per tracer, then the largest lesions of each."""
    print(f"\n{'tracer':8}{'lesions':>8}{'TTB mL':>10}{'SUVmax':>9}{'SUVmean':>9}{'Dice':>8}  mask")
    for found in findings:
        agreement = "-" if found.dice is None else f"{found.dice:.3f}"
        print(
            f"{found.tracer.name:8}{len(found.lesions):8d}{found.ttb_ml:10.1f}{found.suv_max:9.1f}{found.suv_mean:9.1f}"
            f"{agreement:>8}  {masks[found.tracer]}"
        )
    for found in findings:
        if found.lesions:
            print(f"\n{found.tracer.name}: the largest lesions\n{'':4}{'mL':>8}{'SUVmax':>9}{'SUVmean':>9}")
        for rank, lesion in enumerate(found.lesions[:LONGEST_TABLE], start=1):
            print(f"{rank:4d}{lesion.volume_ml:8.2f}{lesion.suv_max:9.1f}{lesion.suv_mean:9.1f}")
        if len(found.lesions) > LONGEST_TABLE:
            print(f"{'':4}and {len(found.lesions) - LONGEST_TABLE} smaller ones")


def write_lesions(findings: list[Finding], *, grids: dict[Tracer, Grid], file: Path) -> None:
    """Write every lesion as a line of CSV; positions are LPS mm, for a viewer's cross-hair."""
    with written_whole(file) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["tracer", "volume_ml", "suv_max", "suv_mean", "x_mm", "y_mm", "z_mm"])
        for found in findings:
            for lesion in found.lesions:
                position = grids[found.tracer].position_mm_xyz(lesion.centre_zyx)
                writer.writerow(
                    [found.tracer.value]
                    + [f"{value:.3f}" for value in (lesion.volume_ml, lesion.suv_max, lesion.suv_mean, *position)]
                )


def report(case_folder: Path, *, output: Path, truth: Path | None) -> None:
    """Print what a run found and write `lesions.csv` and `picture.png` beside its output folder's masks.

    Args:
        case_folder: The case, in either layout.
        output: The run's output folder.
        truth: Patient folder in the training set's layout with the true masks, or None.

    Raises:
        CaseError: A mask is missing or not on the PET's grid, or the output folder cannot be written to.
    """
    case = read_case(case_folder)
    findings, masks, grids, scans = [], {}, {}, []
    for tracer in Tracer:
        pet = case.scan(tracer).pet
        grids[tracer] = grid_of(pet)
        masks[tracer] = mask_file(output, tracer)
        mask = read_image(masks[tracer], where=f"{tracer} mask")
        check_same_grid(grid_of(mask), grids[tracer], where=f"{tracer} mask", name="the PET")
        true_mask = None if truth is None else read_truth(truth, tracer)
        if true_mask is not None:
            check_same_grid(grid_of(true_mask), grids[tracer], where=f"{tracer} truth", name="the PET")
        findings.append(
            measure_finding(
                tracer,
                mask=to_array(mask).astype(bool),
                pet=pet,
                truth=None if true_mask is None else to_array(true_mask).astype(bool),
            )
        )
        scans.append(PictureScan(tracer=tracer, pet=pet, truth=true_mask, other=mask))
    print_findings(findings, masks=masks)
    try:
        write_lesions(findings, grids=grids, file=output / "lesions.csv")
        picture = draw_patients([PicturePatient(title=case.name, scans=scans)], output / "picture.png")
    except OSError as error:  # after a container's run, the folder often belongs to somebody else
        raise CaseError(str(output), "lesions.csv and picture.png must be writable", error.strerror) from error
    print(f"\nall lesions: {output / 'lesions.csv'}\npicture:     {picture}")


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.report", description=__doc__)
    parser.add_argument("--case", type=Path, required=True, help="the case that was run")
    parser.add_argument("--output", type=Path, required=True, help="the output folder of inference.py")
    parser.add_argument("--truth", type=Path, help="patient folder of the training set's layout with the true TTB")
    options = parser.parse_args(arguments)
    # What is odd about the case, the run itself has said.
    logging.basicConfig(level=logging.ERROR, stream=sys.stdout)
    try:
        report(options.case, output=options.output, truth=options.truth)
    except CaseError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
