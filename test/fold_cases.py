"""Data sets as far as folds look at them, and patients of different disease."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import SimpleITK as sitk

from cases import PET_GRIDS
from petct.case import Tracer
from petct.folders import read_truth
from petct.geometry import to_array, to_image
from training.datasets.descriptions import ORGAN_DATASET_ID, dataset_name
from training.folds.patient_traits import ScanTraits
from training.folds.splits import dataset_file, splits_of

NAMES = tuple(f"train_{n:04d}" for n in range(1, 8))
SPLITS = splits_of([NAMES[0::3], NAMES[1::3], NAMES[2::3]])  # 3, 2 and 2 patients
OTHER_SPLITS = splits_of([NAMES[:3], NAMES[3:5], NAMES[5:]])
Voxel = tuple[int, int, int]


def one_by_one(
    function: Callable[[Path], object], items: Sequence[Path], *, processes: int
) -> Iterator[tuple[Path, object]]:
    """In place of processes, which have to import everything first."""
    for item in items:
        try:
            yield item, function(item)
        except Exception as error:  # noqa: BLE001 - as a process hands over whatever was raised
            yield item, error


def make_dataset(nnunet: Path, number: int, *, patients: Sequence[str] = NAMES, place: str = "raw") -> None:
    """The labels' files of a data set, which are all that folds look at, and a folder for the preprocessed one."""
    parts = {"raw": ("nnUNet_raw", "labelsTr"), "preprocessed": ("nnUNet_preprocessed", "gt_segmentations")}
    top, labels = parts[place]
    folder = nnunet / top / dataset_name(number) / labels
    folder.mkdir(parents=True)
    tracers = [f"_{tracer}" for tracer in Tracer] if number == ORGAN_DATASET_ID else [""]
    for patient, tracer in itertools.product(patients, tracers):
        (folder / f"{patient}{tracer}.mha").touch()
    (folder / ".train_9999.mha").touch()  # what file managers leave behind
    dataset_file(nnunet, number=number).parent.mkdir(parents=True, exist_ok=True)


def trained(nnunet: Path, number: int, *, fold: str = "fold_1") -> Path:
    folder = nnunet / "nnUNet_results" / dataset_name(number) / "nnUNetTrainer__nnUNetPlans__3d_fullres" / fold
    folder.mkdir(parents=True)
    return folder


def edit_truth(patient: Path, scan: str, voxels_zyx: dict[Voxel, int], *, is_empty: bool = False) -> None:
    """Set single voxels of a patient's truth, perhaps after emptying it."""
    truth = to_array(read_truth(patient, Tracer(scan.lower())))
    if is_empty:
        truth[:] = 0
    for index, value in voxels_zyx.items():
        truth[index] = value
    sitk.WriteImage(to_image(truth, PET_GRIDS[scan]), patient / scan / "TTB.nii.gz")


def scan_traits(
    *, ttb_ml: float = 3.0, lesions: int = 2, voxel_ml: float = 0.05, grid: str = "A", alone: float | None = 0.1
) -> ScanTraits:
    return ScanTraits(ttb_ml=ttb_ml, lesions=lesions, voxel_ml=voxel_ml, grid=grid, alone_share=alone)
