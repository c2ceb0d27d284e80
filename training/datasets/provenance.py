"""What a raw data set was made of, kept beside it: patients, corrections, CT clipping, and a digest to know it by."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from petct.channels import ClipHU
from petct.errors import CaseError
from petct.written_whole import written_whole
from training.datasets.descriptions import dataset_name

PROVENANCE_NAME = "provenance.json"


@dataclass(frozen=True)
class DatasetProvenance:
    """What a raw data set was made of.

    Attributes:
        patients: The patients in it, in the order of their names.
        corrected: Those whose corrected annotation was used.
        left_out: Those of the folder that are not in it.
        organs_computed: Those of whose organ maps one or both were computed, not given.
        clip: What the CT was clipped to, or None.
        sha256: Hex digest over its inputs and description (`dataset_digest`).
    """

    patients: tuple[str, ...]
    corrected: tuple[str, ...]
    left_out: tuple[str, ...]
    organs_computed: tuple[str, ...]
    clip: ClipHU | None
    sha256: str


def dataset_digest(description: Mapping[str, Any], *, inputs: Mapping[str, Mapping[str, str]]) -> str:
    """A digest of what a data set is made of: its description, and each patient's input files.

    Over the inputs, not over what is written: these are the same bytes on every machine, while the last bit of a
    distance or a resampled CT need not be.

    Args:
        description: What makes the data set out of the files; JSON values.
        inputs: Per patient the sha256 of each input file, by what the file is to the data set (`fdg pet`). Neither
            order nor place of the files matter.

    Returns:
        64 hex digits.
    """
    content = json.dumps({"description": dict(description), "inputs": _plain(inputs)}, sort_keys=True)
    return hashlib.sha256(content.encode("utf-8")).hexdigest()


def _plain(inputs: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    return {patient: dict(files) for patient, files in inputs.items()}


def write_provenance(folder: Path, provenance: DatasetProvenance) -> None:
    """Write provenance.json into a raw data set's folder; whole or not at all.

    Args:
        folder: The raw data set's folder.
        provenance: What to write.
    """
    with written_whole(folder / PROVENANCE_NAME) as partial:
        partial.write_text(json.dumps(asdict(provenance), indent=1), encoding="utf-8")


def read_provenance(nnunet: Path, *, number: int) -> DatasetProvenance:
    """What a raw data set was made of.

    Args:
        nnunet: Folder with nnUNet_raw.
        number: Data set number.

    Raises:
        CaseError: There is no such data set, or its provenance.json is missing or malformed.
    """
    name = dataset_name(number)
    where = f"{name}/{PROVENANCE_NAME}"
    path = nnunet / "nnUNet_raw" / name / PROVENANCE_NAME
    if not path.is_file():
        command = f"`python -m training dataset {number}{' --overwrite' if path.parent.exists() else ''}`"
        raise CaseError(where, f"file is missing; {command} makes it with its data set")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CaseError(where, "file must be JSON in UTF-8", f"{type(error).__name__}: {error}"[:120]) from error
    keys = set(DatasetProvenance.__dataclass_fields__)
    if not isinstance(content, dict) or set(content) != keys:
        got = ", ".join(sorted(map(str, content))) if isinstance(content, dict) else type(content).__name__
        raise CaseError(where, f"must hold {', '.join(sorted(keys))}", got or "nothing")
    digest = content["sha256"]
    if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
        raise CaseError(where, "sha256 must be 64 lower-case hex digits", f"{digest!r}"[:80])
    return DatasetProvenance(
        patients=_names(content, "patients", where=where),
        corrected=_names(content, "corrected", where=where),
        left_out=_names(content, "left_out", where=where),
        organs_computed=_names(content, "organs_computed", where=where),
        clip=_clip(content["clip"], where=where),
        sha256=digest,
    )


def _names(content: Mapping[str, Any], key: str, *, where: str) -> tuple[str, ...]:
    names = content[key]
    if not isinstance(names, list) or any(not isinstance(name, str) for name in names):
        raise CaseError(where, f"{key} must be a list of patients' names", f"{names!r}"[:80])
    return tuple(names)


def _clip(content: object, *, where: str) -> ClipHU | None:
    if content is None:
        return None
    limits = [content.get("low_hu"), content.get("high_hu")] if isinstance(content, dict) else []
    # bool is an int to Python, but true is no HU.
    numbers = [float(n) for n in limits if isinstance(n, (int, float)) and not isinstance(n, bool) and math.isfinite(n)]
    if len(numbers) != 2 or not numbers[0] < numbers[1]:
        raise CaseError(where, "clip must be null, or low_hu and a larger high_hu", f"{content!r}"[:80])
    return ClipHU(low_hu=numbers[0], high_hu=numbers[1])
