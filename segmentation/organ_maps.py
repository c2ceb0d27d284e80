"""Where a scan's organ map comes from: the case, or TotalSegmentator."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from enum import StrEnum

import SimpleITK as sitk
import torch

from petct.case import Scan, Tracer
from petct.errors import CaseError
from petct.manifest import OrganSettings
from petct.stages import stage
from segmentation.totalsegmentator import find_organ_maps

log = logging.getLogger(__name__)


class OrganSource(StrEnum):
    """Where organ maps come from: the case if it brings them, only the case, or always TotalSegmentator."""

    AUTO = "auto"
    GIVEN = "given"
    TOTALSEGMENTATOR = "totalsegmentator"


@stage("organs")
def organ_maps(
    scans: Sequence[Scan], *, settings: OrganSettings, source: OrganSource, device: torch.device, crop_to_body: bool
) -> dict[Tracer, sitk.Image]:
    """Labels on the CTs' grids, from the case or from one run of TotalSegmentator for all that lack them."""
    maps: dict[Tracer, sitk.Image] = {}
    for scan in scans:
        if needs_totalsegmentator(scan, source=source):
            continue
        if scan.organs is None:
            raise CaseError(f"{scan.tracer.name} organs", "organ map must come with the case when --organs is given")
        log.info("%s organs: given with the case", scan.tracer.name)
        maps[scan.tracer] = scan.organs
    lacking = {scan.tracer: f"{scan.tracer.name} organs" for scan in scans if scan.tracer not in maps}
    found = find_organ_maps(
        {lacking[scan.tracer]: scan.ct for scan in scans if scan.tracer in lacking},
        settings=settings,
        device=device.type,
        crop_to_body=crop_to_body,
    )
    return maps | {tracer: found[where] for tracer, where in lacking.items()}


def organ_map(scan: Scan, *, settings: OrganSettings, source: OrganSource, device: torch.device) -> sitk.Image:
    """One scan's TotalSegmentator labels on its CT's grid, as TotalSegmentator itself would find them."""
    return organ_maps([scan], settings=settings, source=source, device=device, crop_to_body=False)[scan.tracer]


def needs_totalsegmentator(scan: Scan, *, source: OrganSource) -> bool:
    """Whether the scan's organs have to be found."""
    return source is OrganSource.TOTALSEGMENTATOR or (source is OrganSource.AUTO and scan.organs is None)
