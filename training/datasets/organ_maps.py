"""Organ maps of patients who bring none: computed once by TotalSegmentator, and kept for all data sets."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import SimpleITK as sitk

from petct.case import Tracer
from petct.checks import check_ct
from petct.errors import CaseError
from petct.folders import SCAN_FOLDERS, find_files
from petct.images import read_image
from petct.manifest import OrganSettings
from petct.written_whole import written_whole
from segmentation.totalsegmentator import check_organ_weights, find_organs
from segmentation.weight_files import sha256_of
from training.datasets.refused import refusal_of

MAP_NAME = "totseg_24.nii.gz"
RECORD_NAME = "totseg_24.json"  # what a computed map was computed from
Missing = tuple[Path, Tracer]

log = logging.getLogger(__name__)


def computed_map(organs: Path, *, patient: str, tracer: Tracer) -> Path:
    """Where the computed organ map of a scan is, or will be; never in the patient's own folder."""
    return organs / patient / SCAN_FOLDERS[tracer] / MAP_NAME


def missing_maps(patients: Sequence[Path], *, tracers: Sequence[Tracer]) -> list[Missing]:
    """The scans that bring no organ map, whether or not one was computed already.

    Raises:
        CaseError: A file of a scan is missing or doubled.
    """
    found = [(patient, find_files(patient)) for patient in patients]
    return [(patient, tracer) for patient, files in found for tracer in tracers if files[tracer].organs is None]


def compute_maps(
    missing: Sequence[Missing], *, organs: Path, settings: OrganSettings, device: str
) -> dict[str, CaseError]:
    """Compute organ maps, one after the other: TotalSegmentator takes what memory and cores there are.

    Maps that are there already are kept. A patient whose map cannot be had is refused, and the others go on.

    Args:
        missing: The scans.
        organs: Folder of computed maps.
        settings: Which model, and its weights.
        device: `cuda` or `cpu`.

    Returns:
        Why patients are refused, by name: TotalSegmentator fails, or a map is there that was computed from another CT
        or by another model.

    Raises:
        CaseError: The weights are not there.
    """
    todo = []
    refused: dict[str, CaseError] = {}
    for patient, tracer in missing:
        try:
            if not _is_there(patient, tracer, organs=organs, settings=settings):
                todo.append((patient, tracer))
        except CaseError as error:
            refused.setdefault(patient.name, refusal_of(error, patient=patient.name))
    if not todo:
        return refused
    check_organ_weights(settings, where="organ maps")
    log.info("computes %d organ maps with TotalSegmentator (%s)", len(todo), settings.task)
    for number, (patient, tracer) in enumerate(todo, start=1):
        try:
            _compute(patient, tracer, organs=organs, settings=settings, device=device)
        except CaseError as error:
            refused.setdefault(patient.name, refusal_of(error, patient=patient.name))
            log.warning("%s (%d of %d)", error, number, len(todo))
            continue
        log.info("%s %s: organ map (%d of %d)", patient.name, tracer.name, number, len(todo))
    return refused


def _is_there(patient: Path, tracer: Tracer, *, organs: Path, settings: OrganSettings) -> bool:
    file = computed_map(organs, patient=patient.name, tracer=tracer)
    if not file.is_file():
        return False
    try:
        held = json.loads(file.with_name(RECORD_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        held = None
    if held != _record(find_files(patient)[tracer].ct.path, settings=settings):
        raise CaseError(str(file), "must be computed from this CT by this model; remove it, and it is computed anew")
    return True


def _compute(patient: Path, tracer: Tracer, *, organs: Path, settings: OrganSettings, device: str) -> None:
    file = computed_map(organs, patient=patient.name, tracer=tracer)
    source = find_files(patient)[tracer].ct
    where = f"{patient.name} {source.where}"
    ct = read_image(source.path, where=where)
    check_ct(ct, where=where)
    labels = find_organs(ct, settings=settings, device=device, where=where)
    file.parent.mkdir(parents=True, exist_ok=True)
    # The record first: a map without one would be refused.
    _write_record(file.with_name(RECORD_NAME), _record(source.path, settings=settings))
    with written_whole(file) as partial:
        sitk.WriteImage(labels, str(partial), useCompression=True)


def _record(ct: Path, *, settings: OrganSettings) -> dict[str, object]:
    return {"ct": sha256_of(ct), "task": settings.task.value, "weights": dict(sorted(settings.sha256.items()))}


def _write_record(file: Path, record: dict[str, object]) -> None:
    with written_whole(file) as partial:
        partial.write_text(json.dumps(record, indent=1), encoding="utf-8")
