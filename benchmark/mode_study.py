"""All patients in all modes, going on where an earlier run stopped."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmark.kept_rows import KEY, Row, read_rows, write_rows
from benchmark.machine import describe_machine, package_versions
from benchmark.mode_distance import ModeRow, measure_patient, mode_keys, read_mode_row
from benchmark.mode_summary import summary_json
from benchmark.run_log import code_digest
from evaluation.runs import breakdown_of
from petct.errors import CaseError
from petct.manifest import Manifest, Mode

COMMAND = "modes"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MeasuredModes:
    """What is known of the patients asked for.

    Attributes:
        rows: Of the patients of whom every mode is measured.
        refused: Why patients could not be measured, a line each.
    """

    rows: tuple[ModeRow, ...]
    refused: tuple[str, ...]


def measure(
    patients: Sequence[Path],
    *,
    manifest: Manifest,
    modes: Sequence[Mode],
    has_truth: bool,
    device: torch.device,
    file: Path,
    overwrite: bool,
) -> MeasuredModes:
    """Measure what the file does not hold yet, writing it after each patient; one who is refused is left out.

    Args:
        patients: Patient folders with organ maps.
        manifest: What to run.
        modes: Modes to compare with `exact`.
        has_truth: Whether the patients' truth is measured against.
        device: Where the networks run.
        file: JSON to go on from; what it holds of other patients, manifests or code stays in it and is not used.
        overwrite: Whether what it holds is thrown away.

    Raises:
        CaseError: The file is of another kind or cannot be written.
    """
    wanted = dict.fromkeys((Mode.EXACT, *modes))
    kept = {} if overwrite else {row[KEY]: row for row in read_rows(file, command=COMMAND)}
    found: list[ModeRow] = []
    refused: list[str] = []
    for number, patient in enumerate(patients, start=1):
        try:
            keys = mode_keys(patient, manifest=manifest, modes=tuple(wanted), has_truth=has_truth, device=device.type)
            is_new = not all(key in kept for key in keys.values())
            if is_new:
                rows = measure_patient(patient, manifest=manifest, keys=keys, has_truth=has_truth, device=device)
                kept |= {row.key: row.as_json() for row in rows}
        except CaseError as error:
            refused.append(f"{patient.name}: {error}")
        except (RuntimeError, MemoryError) as error:  # memory that ran out for one patient may do for the next
            refused.append(f"{patient.name}: {breakdown_of(error)}")
        else:
            found += [read_mode_row(kept[key], where=str(file)) for key in keys.values()]
            if is_new:
                _write(file, kept=list(kept.values()), summary={}, manifest=manifest, device=device)
            said = "measured" if is_new else "measured already"
            log.info("%s: %s (%d of %d)", patient.name, said, number, len(patients))
            continue
        log.warning("%s (%d of %d)", refused[-1], number, len(patients))
        if device.type == "cuda":
            torch.cuda.empty_cache()
    if found:
        _write(file, kept=list(kept.values()), summary=summary_json(found), manifest=manifest, device=device)
    return MeasuredModes(rows=tuple(found), refused=tuple(refused))


def _write(
    file: Path, *, kept: Sequence[Row], summary: Mapping[str, Any], manifest: Manifest, device: torch.device
) -> None:
    """Write the rows; their summary takes as long as a patient, and comes with the last of them."""
    write_rows(
        file,
        kept,
        command=COMMAND,
        manifest=manifest.name,
        backend=manifest.backend.value,
        device=device.type,
        threads=torch.get_num_threads(),
        machine=describe_machine(),
        versions=package_versions(),
        code_sha256=code_digest(),
        summary=summary,
    )
