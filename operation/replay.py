"""Doing a recorded run again: only where all that voxels may depend on is as it was, and compared at the end."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from operation.run_record import MaskFound, OutcomeKind, RunRecord, read_record
from operation.setting import Setting
from petct.case import Tracer
from petct.errors import CaseError

_SHOWN = 8  # differences in one line; more say no more
_SHA256_DIGITS, _SHA256_SHOWN = 64, 12
# What a machine has that no voxel depends on.
_FREE_OF_VOXELS = {"system", "memory_mib"}


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Replay:
    """A recorded run that is to be done again.

    Attributes:
        file: The record's file.
        record: The record, of a run that ended with masks.
    """

    file: Path
    record: RunRecord

    def applied_to(self, setting: Setting) -> Setting:
        """A setting as it was then, on as many threads, and without a time limit: what was given up is on record.

        What a command line says of mode, backend and organs gives way to the record.
        """
        options = self.record.options
        if options is None:
            raise ValueError("a record with masks must have options")
        torch.set_num_threads(options.threads)
        manifest = replace(setting.manifest, mode=options.mode, backend=options.backend)
        return replace(setting, manifest=manifest, organ_source=options.organ_source, time_limit_s=None)


def read_replay(path: Path) -> Replay:
    """The record of a run that is to be done again.

    Raises:
        CaseError: The file is missing, no record of this format, or that of a run without masks.
    """
    record = read_record(path)
    if record.outcome.kind is not OutcomeKind.MASKS:
        got = f"{record.outcome.kind}: {record.outcome.error}"
        raise CaseError(f"{path.name} outcome", "must be masks to be replayed", got)
    for part, there in (("outcome.masks", record.outcome.masks), ("scans", record.scans)):
        if set(there) != set(Tracer):
            raise CaseError(f"{path.name} {part}", "must be those of both tracers", ", ".join(there) or "none")
    if record.options is None or record.manifest is None:
        raise CaseError(path.name, "options and manifest must be there to be replayed", "null")
    if record.options.threads < 1:
        raise CaseError(f"{path.name} options.threads", "must be >= 1", f"{record.options.threads}")
    return Replay(file=path, record=record)


def check_same_run(replay: Replay, *, now: RunRecord) -> None:
    """Everything that voxels may depend on must be as it was: program, packages, machine, manifest, weights, inputs.

    Args:
        replay: The run then.
        now: The run that is about to compute.

    Raises:
        CaseError: Something differs; all of it is named in one line.
    """
    unchecked = [file for file in now.weights if file.sha256 is None]
    if unchecked:
        log.warning("replay: %d weight files of %s have no sha256 in the manifest", len(unchecked), unchecked[0].owner)
    found = list(differences(replay.record, now=now))
    if found:
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        rule = "a replay must run on what the recorded run ran on"
        raise CaseError(replay.file.name, rule, "; ".join(found[:_SHOWN]) + more)


def check_same_masks(replay: Replay, *, masks: Mapping[Tracer, MaskFound]) -> None:
    """Every voxel must be as it was.

    Raises:
        CaseError: A mask differs.
    """
    for tracer, then in replay.record.outcome.masks.items():
        now = masks[tracer]
        if now.voxels_sha256 != then.voxels_sha256:
            got = f"{now.voxels} voxels in {now.lesions} lesions instead of {then.voxels} in {then.lesions}"
            raise CaseError(f"{tracer.name} mask", f"must be that of {replay.file.name}, voxel for voxel", got)


def differences(then: RunRecord, *, now: RunRecord) -> Iterator[str]:
    """What voxels may depend on and is not as it was, one line each: `torch 2.8.0 instead of 2.7.1`."""
    for of in (_product, _versions, _machine, _environment, _options, _manifest, _weights, _inputs):
        values, others = of(now), of(then)
        for name in dict.fromkeys([*values, *others]):
            if values.get(name) != others.get(name):
                yield f"{name} {_shown(values.get(name))} instead of {_shown(others.get(name))}"


def _product(record: RunRecord) -> Mapping[str, object]:
    return asdict(record.product)


def _versions(record: RunRecord) -> Mapping[str, object]:
    return record.versions


def _machine(record: RunRecord) -> Mapping[str, object]:
    values = asdict(record.machine)
    flags = values.pop("cpu_flags")
    values |= {f"cpu flag {flag}": "present" for flag in flags}
    return {name: value for name, value in values.items() if name not in _FREE_OF_VOXELS}


def _environment(record: RunRecord) -> Mapping[str, object]:
    return record.environment


def _options(record: RunRecord) -> Mapping[str, object]:
    """Without the time limit: a replay has none."""
    values = {} if record.options is None else asdict(record.options)
    return {name: value for name, value in values.items() if name != "time_limit_s"}


def _manifest(record: RunRecord) -> Mapping[str, object]:
    return {} if record.manifest is None else {"manifest sha256": record.manifest.sha256}


def _weights(record: RunRecord) -> Mapping[str, object]:
    return {f"{file.owner} {file.file} sha256": file.sha256 for file in record.weights if file.sha256 is not None}


def _inputs(record: RunRecord) -> Mapping[str, object]:
    """By what the files are: they may be called otherwise. One whose digest is not known is like no other."""
    values: dict[str, object] = {}
    for tracer, scan in record.scans.items():
        values[f"{tracer.name} organs"] = scan.organs
        for what, file in scan.files.items():
            values[f"{tracer.name} {what} sha256"] = file.sha256 or f"unknown at {record.ended_utc}"
    return values


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    text = str(value)
    return f"{text[:_SHA256_SHOWN]}..." if len(text) == _SHA256_DIGITS else text
