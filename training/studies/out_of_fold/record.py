"""What an out-of-fold prediction was made with, kept beside it, so that two ways of making one never get mixed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from petct.case import Tracer
from petct.errors import CaseError
from petct.manifest import Manifest, Member, TracerSettings
from petct.written_whole import written_whole
from segmentation.packed_model import read_packed_model
from segmentation.weight_files import MODEL_FILE

RECORD_NAME = "case.json"


@dataclass(frozen=True)
class CaseRecord:
    """How a patient was predicted.

    Attributes:
        case: The patient.
        fold: The fold that had not seen him.
        members: Per tracer the names of the networks.
        rules: Per tracer the thresholds and rules (`rules_of`).
        made_with: Digest of all that the prediction depends on but the patient: networks, rules, source of organs.
    """

    case: str
    fold: int
    members: Mapping[str, list[str]]
    rules: Mapping[str, Mapping[str, Any]]
    made_with: str


def rules_of(settings: TracerSettings) -> dict[str, Any]:
    """What makes a mask out of probabilities, before refinement, as JSON values."""
    return {
        "ttb_probability": settings.ttb_probability,
        "normal_probability": settings.normal_probability,
        "regrow_radius_mm": settings.regrow_radius_mm,
        "protected_organs": sorted(organ.name.lower() for organ in settings.protected_organs),
    }


def record_of(case: str, *, fold: int, manifest: Manifest, organ_source: str) -> CaseRecord:
    """The record of a patient that a fold's manifest predicts, organ maps taken from a source."""
    rules = {tracer.value: rules_of(manifest.tracer(tracer)) for tracer in Tracer}
    members = {tracer.value: manifest.tracer(tracer).members for tracer in Tracer}
    content = {
        "rules": rules,
        "refinement": asdict(manifest.fdg.refinement) if manifest.fdg.refinement else None,
        "mirroring": manifest.mirroring,
        "tile_step": manifest.tile_step,
        "organs": {"source": organ_source, "task": manifest.organs.task, "sha256": dict(manifest.organs.sha256)},
        "members": {tracer: [_member_content(member) for member in ensemble] for tracer, ensemble in members.items()},
    }
    return CaseRecord(
        case=case,
        fold=fold,
        members={tracer: [member.name for member in ensemble] for tracer, ensemble in members.items()},
        rules=rules,
        made_with=hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(),
    )


def _member_content(member: Member) -> list[Any]:
    """What a member's predictions depend on; model.json also says when and with what it was packed."""
    model = read_packed_model(member)
    files = {file: digest for file, digest in member.sha256.items() if file != MODEL_FILE}
    return [member.name, member.weight, files, str(model.clip), list(model.mirroring_axes)]


def write_record(folder: Path, record: CaseRecord) -> None:
    """Write a patient's record; whole or not at all."""
    with written_whole(folder / RECORD_NAME) as partial:
        partial.write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")


def read_record(folder: Path) -> CaseRecord:
    """The record of a predicted patient.

    Raises:
        CaseError: It is missing or malformed.
    """
    where = f"{folder.name}/{RECORD_NAME}"
    try:
        content = json.loads((folder / RECORD_NAME).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CaseError(where, "file is missing; `python -m training predict-oof` writes it") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CaseError(where, "file must be JSON in UTF-8", f"{type(error).__name__}: {error}"[:120]) from error
    keys = set(CaseRecord.__dataclass_fields__)
    if not isinstance(content, dict) or set(content) != keys:
        raise CaseError(where, f"must hold {', '.join(sorted(keys))}", str(content)[:80])
    kinds = {"case": str, "fold": int, "members": dict, "rules": dict, "made_with": str}
    for key, kind in kinds.items():
        if not isinstance(content[key], kind):
            raise CaseError(where, f"{key} must be {kind.__name__}", str(content[key])[:80])
    if not re.fullmatch("[0-9a-f]{64}", content["made_with"]) or set(content["rules"]) != {*Tracer}:
        raise CaseError(where, "must be as predict-oof writes it", str(content)[:80])
    return CaseRecord(**content)


def read_records(folder: Path) -> dict[str, CaseRecord]:
    """The records of all patients of an out-of-fold folder, by name, in the order of their names.

    Raises:
        CaseError: There are none, or one is malformed.
    """
    cases = sorted(path for path in folder.glob("train_*") if path.is_dir())
    if not cases:
        raise CaseError(str(folder), "must hold out-of-fold predictions of patients named train_XXXX", "none")
    return {case.name: read_record(case) for case in cases}
