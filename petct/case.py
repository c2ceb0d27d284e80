"""One patient's case: two scans, each a PET in SUV, a CT in HU, a threshold and perhaps an organ map."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import SimpleITK as sitk


class Tracer(StrEnum):
    """The two tracers, in the order in which the method reads them."""

    PSMA = "psma"
    FDG = "fdg"


@dataclass(frozen=True)
class Scan:
    """One tracer's PET/CT. Built by the readers, which check it (`petct.checks`).

    Attributes:
        tracer: Which tracer.
        pet: PET in SUV, 3D.
        ct: CT in HU on its own grid, 3D, covering (part of) the PET.
        organs: TotalSegmentator v2 `total` labels on the CT's grid, or None when the case brings none.
        suv_threshold: SUV at or above which a voxel may be disease, > 0.
    """

    tracer: Tracer
    pet: sitk.Image
    ct: sitk.Image
    organs: sitk.Image | None
    suv_threshold: float


@dataclass(frozen=True)
class Case:
    """A patient: the PSMA and the FDG scan.

    Attributes:
        name: What to call the case in logs.
        psma: The PSMA scan.
        fdg: The FDG scan.
    """

    name: str
    psma: Scan
    fdg: Scan

    def scan(self, tracer: Tracer) -> Scan:
        """The scan of one tracer."""
        return self.psma if tracer is Tracer.PSMA else self.fdg
