"""A picture of patients with their truth and what a manifest finds in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from evaluation.picture import PicturePatient, PictureScan, draw_patients
from inference import segment_case
from petct.case import Tracer
from petct.errors import CaseError
from petct.folders import read_case, read_truth
from petct.geometry import to_image
from petct.manifest import Manifest
from segmentation.organ_maps import OrganSource


def draw_found(patients: Sequence[Path], *, manifest: Manifest, device: torch.device, file: Path) -> Path:
    """Draw one to four patients, truth in red and what is found in blue, organs computed.

    Args:
        patients: Patient folders of the training set's layout, with truth.
        manifest: What to run.
        device: Where to run it.
        file: The PNG to write; its folder is made if missing.

    Raises:
        CaseError: There are no patients or more than four, or one is broken.
    """
    if not 1 <= len(patients) <= 4:
        raise CaseError("--names", "must be one to four patients", str(len(patients)))
    file.parent.mkdir(parents=True, exist_ok=True)
    drawn = []
    for patient in patients:
        case = read_case(patient)
        found = segment_case(case, manifest=manifest, organ_source=OrganSource.TOTALSEGMENTATOR, device=device)
        scans = [
            PictureScan(
                tracer=tracer,
                pet=case.scan(tracer).pet,
                truth=read_truth(patient, tracer),
                other=to_image(found[tracer].ttb.astype(np.uint8), found[tracer].grid),
            )
            for tracer in Tracer
        ]
        drawn.append(PicturePatient(title=patient.name, scans=scans))
    return draw_patients(drawn, file)
