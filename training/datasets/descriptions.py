"""Which nnU-Net data sets there are: one typed description of each, numbered as the authors number them."""

from __future__ import annotations

from dataclasses import dataclass

from petct.case import Tracer
from petct.channels import OrganEncoding
from petct.errors import CaseError
from training.datasets.organ_images import ORGAN_SPACING_MM

ORGAN_DATASET_ID = 298  # TotalSegmentator's own number for its 6 mm model


@dataclass(frozen=True)
class LesionDataset:
    """A data set for lesion segmentation of one tracer.

    Attributes:
        number: nnU-Net's data set number.
        tracer: The tracer.
        encoding: How the organs are shown.
        is_corrected: Whether the truth is the corrected annotation, where a patient has one.
        is_ct_clipped: Whether the CT is clipped to percentiles of the data set's, before nnU-Net normalises it.
    """

    number: int
    tracer: Tracer
    encoding: OrganEncoding
    is_corrected: bool
    is_ct_clipped: bool = False  # the authors' eight are not; `dataset --clip-ct` makes one that is

    @property
    def name(self) -> str:
        """nnU-Net's folder name."""
        corrected = "_corrected" if self.is_corrected else ""
        return f"Dataset{self.number}_{self.tracer.name}_PET_{self.encoding.value}{corrected}"


LESION_DATASETS = {
    dataset.number: dataset
    for dataset in (
        LesionDataset(801, Tracer.PSMA, OrganEncoding.NONE, is_corrected=False),
        LesionDataset(802, Tracer.FDG, OrganEncoding.NONE, is_corrected=False),
        LesionDataset(901, Tracer.PSMA, OrganEncoding.BINARY, is_corrected=False),
        LesionDataset(902, Tracer.FDG, OrganEncoding.BINARY, is_corrected=False),
        LesionDataset(911, Tracer.PSMA, OrganEncoding.BINARY, is_corrected=True),
        LesionDataset(912, Tracer.FDG, OrganEncoding.BINARY, is_corrected=True),
        LesionDataset(921, Tracer.PSMA, OrganEncoding.SOFT_DISTANCE, is_corrected=False),
        LesionDataset(922, Tracer.FDG, OrganEncoding.SOFT_DISTANCE, is_corrected=False),
    )
}
DATASET_NUMBERS = (*LESION_DATASETS, ORGAN_DATASET_ID)


def dataset_name(number: int) -> str:
    """nnU-Net's folder name of a data set number.

    Raises:
        CaseError: There is no such data set.
    """
    if number == ORGAN_DATASET_ID:
        return f"Dataset{number}_organs_{ORGAN_SPACING_MM:g}mm"
    if number not in LESION_DATASETS:
        raise CaseError("data set", f"must be one of {', '.join(map(str, DATASET_NUMBERS))}", str(number))
    return LESION_DATASETS[number].name
