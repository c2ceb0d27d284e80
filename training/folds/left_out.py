"""Patients whom the data sets leave out, and the folds therefore too."""

from __future__ import annotations

from pathlib import Path

from petct.errors import CaseError
from training.datasets.descriptions import LESION_DATASETS, dataset_name
from training.datasets.provenance import read_provenance


def left_out_everywhere(nnunet: Path) -> frozenset[str]:
    """The patients that every lesion data set that is there leaves out, by name.

    A data set that does not say whom it leaves out, leaves out nobody; so do none at all.

    Args:
        nnunet: Folder with nnUNet_raw; need not be there.
    """
    there = [number for number in LESION_DATASETS if (nnunet / "nnUNet_raw" / dataset_name(number)).is_dir()]
    left_out = [_left_out(nnunet, number=number) for number in there]
    return frozenset.intersection(*left_out) if left_out else frozenset()


def _left_out(nnunet: Path, *, number: int) -> frozenset[str]:
    try:
        return frozenset(read_provenance(nnunet, number=number).left_out)
    except CaseError:
        return frozenset()
