"""How far the named modes are from `exact` on patients: masks, the challenge's metrics, and seconds."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmark.cases import describe_case
from benchmark.kept_rows import KEY, Row, row_key
from benchmark.plan import Plan, describe_setting
from evaluation.folders import find_truth
from evaluation.judgement import read_mask
from evaluation.metrics import Metrics, measure_masks
from evaluation.overlap import dice
from inference import Segmented, segment_case
from petct import stages
from petct.case import Tracer
from petct.errors import CaseError
from petct.folders import read_case
from petct.geometry import grid_of
from petct.manifest import Manifest, Mode
from segmentation.organ_maps import OrganSource
from segmentation.weight_files import sha256_of

# They log several lines per scan and member.
_TALKATIVE = ("inference", "segmentation", "postprocessing")

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ScanDistance:
    """What a mode makes of one scan.

    Attributes:
        dice: Of its mask and that of `exact`; None when both are empty.
        differing_voxels: Voxels where the two differ.
        voxels: Voxels of the PET.
        metrics: Its mask against the truth; None when truth is not asked for.
    """

    dice: float | None
    differing_voxels: int
    voxels: int
    metrics: Metrics | None

    @property
    def differing_fraction(self) -> float:
        """Share of the voxels that differ."""
        return self.differing_voxels / self.voxels


@dataclass(frozen=True)
class ModeRow:
    """One patient in one mode.

    Attributes:
        key: What it depends on (`mode_key`).
        case: The patient.
        mode: The mode.
        scans: Both scans.
        total_s: Wall time of the whole method, reading and writing left out.
        stages_s: Seconds of its stages; those of threads beside each other overlap.
    """

    key: str
    case: str
    mode: Mode
    scans: Mapping[Tracer, ScanDistance]
    total_s: float
    stages_s: Mapping[str, float]

    def as_json(self) -> Row:
        """As JSON values."""
        return {
            KEY: self.key,
            "case": self.case,
            "mode": self.mode.value,
            "scans": {tracer.value: asdict(scan) for tracer, scan in self.scans.items()},
            "total_s": self.total_s,
            "stages_s": dict(self.stages_s),
        }


def read_mode_row(row: Row, *, where: str) -> ModeRow:
    """A row as `ModeRow.as_json` wrote it.

    Raises:
        CaseError: It is none.
    """
    try:
        return ModeRow(
            key=row[KEY],
            case=row["case"],
            mode=Mode(row["mode"]),
            scans={Tracer(name): _read_scan(scan) for name, scan in row["scans"].items()},
            total_s=row["total_s"],
            stages_s=row["stages_s"],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CaseError(where, "row must be one of the modes", repr(error)) from error


def _read_scan(scan: Mapping[str, Any]) -> ScanDistance:
    metrics = scan["metrics"]
    read = None if metrics is None else Metrics(**{**metrics, "notes": tuple(metrics["notes"])})
    return ScanDistance(**{**scan, "metrics": read})


def mode_keys(
    patient: Path, *, manifest: Manifest, modes: Sequence[Mode], has_truth: bool, device: str
) -> dict[Mode, str]:
    """What a patient's rows depend on, in one word each: files, manifest, code, machine.

    Raises:
        CaseError: A file of the patient is missing or cannot be read.
    """
    plan = Plan(
        case=describe_case(patient, name=patient.name),
        manifest=manifest,
        modes=tuple(modes),
        has_reference=False,
        repeats=1,
        device=device,
        backend=manifest.backend,
    )
    truths = [
        sha256_of(find_truth(patient.parent, case=patient.name, tracer=tracer).truth.path)
        for tracer in (Tracer if has_truth else ())
    ]
    content = {**describe_setting(plan), "truth": truths}
    return {mode: row_key({**content, "mode": mode.value}) for mode in modes}


def measure_patient(
    patient: Path,
    *,
    manifest: Manifest,
    keys: Mapping[Mode, str],
    has_truth: bool,
    device: torch.device,
) -> list[ModeRow]:
    """Run the method in every mode on one patient, in this process.

    Args:
        patient: The patient's folder, with organ maps.
        manifest: What to run; its own mode counts nothing.
        keys: The rows' keys by mode, `exact` among them.
        has_truth: Whether the patient's truth is measured against.
        device: Where the networks run.

    Raises:
        CaseError: A file of the patient is missing or breaks a rule.
    """
    case = read_case(patient)
    truths = {
        tracer: read_mask(
            find_truth(patient.parent, case=patient.name, tracer=tracer).truth, grid=grid_of(case.scan(tracer).pet)
        )
        for tracer in (Tracer if has_truth else ())
    }
    exact: dict[Tracer, Segmented] = {}
    rows = []
    for mode in sorted(keys, key=lambda mode: mode is not Mode.EXACT):
        stages.reset()
        started_s = time.perf_counter()
        with _quiet():
            found = segment_case(
                case, manifest=replace(manifest, mode=mode), organ_source=OrganSource.GIVEN, device=device
            )
        total_s = time.perf_counter() - started_s
        exact = exact or found
        scans = {
            tracer: _compare(segmented, exact=exact[tracer].ttb, truth=truths.get(tracer))
            for tracer, segmented in found.items()
        }
        rows.append(ModeRow(keys[mode], patient.name, mode, scans, total_s, stages.stage_seconds()))
    return rows


def _compare(segmented: Segmented, *, exact: Mask, truth: Mask | None) -> ScanDistance:
    found = segmented.ttb
    metrics = None
    if truth is not None:
        metrics = measure_masks(
            found, truth=truth, pet_suv=segmented.pet_suv, spacing_mm_zyx=segmented.grid.spacing_mm_zyx
        )
    return ScanDistance(
        dice=float(dice(found, truth=exact)) if found.any() or exact.any() else None,
        differing_voxels=int(np.count_nonzero(found != exact)),
        voxels=found.size,
        metrics=metrics,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    levels = {name: logging.getLogger(name).level for name in _TALKATIVE}
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
