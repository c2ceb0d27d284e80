"""Is what became of a fault what the table says?"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from check_masks import check_masks
from faults.fault import Ended, Fault, Outcome, Place
from operation.run_record import RECORD_NAME
from petct.case import Tracer

_LONGEST_LINE = 2500
_KEPT = frozenset({"cache", "config", RECORD_NAME})  # on purpose


def faults_of(
    fault: Fault, ended: Ended, *, place: Place, reference: Callable[[], Mapping[Tracer, np.ndarray]]
) -> list[str]:
    """What is wrong with a run; empty when it ended as it must.

    Args:
        fault: What struck it.
        ended: What is left of it.
        place: Its folders.
        reference: The masks of a run that nothing strikes.
    """
    wrong = []
    if fault.inject and not ended.has_struck:
        wrong.append("the fault has never struck")
    if ended.has_hung:
        wrong.append("it hung, and was killed")
    masks = place.masks()
    has_masks = len(masks) == len(Tracer)
    may_have, must_have = fault.outcome in (Outcome.MASKS, Outcome.EITHER), fault.outcome is Outcome.MASKS
    if masks and not (has_masks and may_have):
        wrong.append(f"masks must not be there, got {', '.join(masks)}")
    if has_masks and may_have:
        wrong += check_masks(place.output, input_dir=place.input)
        wrong += [f"{tracer} mask must be the one of an undisturbed run" for tracer in _other(masks, reference())]
        if ended.code != 0:
            wrong.append(f"exit code with masks must be 0, got {ended.code}")
    else:
        if must_have:
            wrong.append("masks must be there")
        if ended.code == 0 or (fault.codes and ended.code not in fault.codes):
            wrong.append(f"exit code must be {fault.codes or 'not 0'}, got {ended.code}")
        if fault.outcome is not Outcome.SILENT:
            wrong += _line_faults(fault, ended)
    if fault.says and not re.search(fault.says, ended.stdout):
        wrong.append(f"the log must say {fault.says!r}")
    if ended.files_left and not fault.leaves_files:
        wrong.append(f"temporary files are left: {', '.join(ended.files_left)}")
    if ended.processes_left:
        wrong.append(f"processes are left: {', '.join(ended.processes_left)}")
    if fault.within_s is not None and (ended.seconds_after_signal or 0.0) > fault.within_s:
        wrong.append(f"must be gone {fault.within_s:g} s after the signal, took {ended.seconds_after_signal:.1f} s")
    return wrong


def _line_faults(fault: Fault, ended: Ended) -> list[str]:
    line = ended.last_line
    if not line or line[0].isspace() or len(line) > _LONGEST_LINE:
        return [f"the last line of stderr must say why, got {line[:200]!r}"]
    if fault.line and not re.search(fault.line, line):
        return [f"the last line of stderr must match {fault.line!r}, got {line[:300]!r}"]
    return []


def _other(masks: Mapping[Tracer, Path], reference: Mapping[Tracer, np.ndarray]) -> list[Tracer]:
    return [tracer for tracer, path in masks.items() if not np.array_equal(_voxels(path), reference[tracer])]


def voxels_of(place: Place) -> dict[Tracer, np.ndarray]:
    """The masks' voxels, (z, y, x)."""
    return {tracer: _voxels(path) for tracer, path in place.masks().items()}


def _voxels(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(path))


def files_left(tmp: Path) -> tuple[str, ...]:
    """What lies in a folder for temporary files, caches and run records apart."""
    return tuple(sorted(path.name for path in tmp.iterdir() if path.name not in _KEPT)) if tmp.exists() else ()
