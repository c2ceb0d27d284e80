"""A run's record: what went in, what it ran on, what it decided, what came out. `run.json` holds it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from operation.json_values import from_json, to_json
from operation.machine import Machine
from operation.product import Product
from petct.case import Tracer
from petct.decisions import Decision
from petct.errors import CaseError, shown
from petct.geometry import Grid
from petct.manifest import Backend, Mode
from petct.scan_files import CaseFile, read_json
from petct.written_whole import written_whole
from segmentation.fold_runs import Executed, read_executed
from segmentation.organ_maps import OrganSource

FORMAT = 1
RECORD_NAME = "run.json"
_KEYS_OF_ANY = {"format", "outcome"}  # of records of every format


class OutcomeKind(StrEnum):
    """How a run ended: with both masks, by refusing what it was given, or by an error of its own or from outside."""

    MASKS = "masks"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True)
class Options:
    """What a run was asked for, with what `auto` came to.

    Attributes:
        mode: How much work a case is given.
        backend: PyTorch or OpenVINO.
        organ_source: Where organ maps come from.
        device: Where the networks run, `cpu` or `cuda`.
        threads: Threads that PyTorch and OpenVINO compute with.
        time_limit_s: Seconds that a case may take; None for as long as it takes.
    """

    mode: Mode
    backend: Backend
    organ_source: OrganSource
    device: str
    threads: int
    time_limit_s: float | None


@dataclass(frozen=True)
class ManifestFile:
    """The manifest.

    Attributes:
        name: Its name, by itself.
        file: Its file's name.
        sha256: Hex digest of the file.
        text: All of it.
    """

    name: str
    file: str
    sha256: str
    text: str


@dataclass(frozen=True)
class WeightFile:
    """A file that networks were read from.

    Attributes:
        owner: Whose it is: `member plain_801`, `organs`.
        file: Its place in the owner's folder.
        sha256: Hex digest that the manifest gives, and that the file had before anything was computed; None when the
            manifest gives none, so that the file was not checked.
    """

    owner: str
    file: str
    sha256: str | None


@dataclass(frozen=True)
class InputFile:
    """A file of the case.

    Attributes:
        place: Its place in the case's folder.
        bytes: Its length; None when it could not be read, or the run ended before it was.
        sha256: Hex digest; None likewise.
        grid: An image's grid; None for one that was not read to its end, and for no image.
    """

    place: str
    bytes: int | None
    sha256: str | None
    grid: Grid | None


@dataclass(frozen=True)
class ScanInputs:
    """What a scan came from.

    Attributes:
        suv_threshold: SUV at or above which a voxel may be disease; None when the case was refused.
        organs: Where the organ map came from, `given` or `totalsegmentator`; None likewise.
        files: Its files by what they are: `pet`, `ct`, `threshold`, and `organs` when the case brings a map.
    """

    suv_threshold: float | None
    organs: OrganSource | None
    files: Mapping[str, InputFile]


@dataclass(frozen=True)
class Stage:
    """A stage of the run.

    Attributes:
        seconds: How long it took; stages in different threads overlap.
        peak_mib: Most memory that the process held until the stage ended last.
    """

    seconds: float
    peak_mib: float


@dataclass(frozen=True)
class MaskFound:
    """One tracer's mask.

    Attributes:
        voxels_sha256: Hex digest of its voxels, 0 and 1, one byte each, (z, y, x) with x running fastest.
        voxels: How many are 1.
        volume_ml: Their volume.
        lesions: How many lesions they make up, 18-connected.
    """

    voxels_sha256: str
    voxels: int
    volume_ml: float
    lesions: int


@dataclass(frozen=True)
class Outcome:
    """How the run ended.

    Attributes:
        kind: In which of three ways.
        error: The line that says why there are no masks, without the names of folders; None when there are.
        masks: Both masks, or nothing.
    """

    kind: OutcomeKind
    error: str | None
    masks: Mapping[Tracer, MaskFound]


@dataclass(frozen=True)
class RunRecord:
    """A run's record. It names no folder of the patient's, only places within it.

    Attributes:
        format: Of this record.
        product: The program.
        versions: Of Python and of packages; None for one that is not installed.
        machine: What it ran on.
        environment: Variables that can change results, as far as they were set.
        started_utc: When the run began, ISO 8601.
        ended_utc: When it ended.
        options: What it was asked for; None when it was refused before that was known, as are the next three.
        manifest: The manifest.
        weights: Files that networks were read from, as soon as they were checked.
        scans: What the scans came from, as soon as their files were found.
        decisions: What the run decided by itself, in order; what it gave up is there with `is_loss`.
        executed: Which folds ran and how; None when it did not come to that.
        stages: By name, in the order in which they ended first.
        counts: What was counted, by name.
        total_s: How long the run took, without the program's start.
        peak_host_mib: Most memory that the process held.
        peak_gpu_mib: Most memory that PyTorch held on the GPU; None without one.
        outcome: How it ended.
    """

    format: int
    product: Product
    versions: Mapping[str, str | None]
    machine: Machine
    environment: Mapping[str, str]
    started_utc: str
    ended_utc: str
    options: Options | None
    manifest: ManifestFile | None
    weights: tuple[WeightFile, ...]
    scans: Mapping[Tracer, ScanInputs]
    decisions: tuple[Decision, ...]
    executed: Executed | None
    stages: Mapping[str, Stage]
    counts: Mapping[str, int]
    total_s: float
    peak_host_mib: float
    peak_gpu_mib: float | None
    outcome: Outcome

    def as_json(self) -> dict[str, object]:
        """The record as JSON values."""
        content: dict[str, object] = to_json(self)
        return content


def write_record(record: RunRecord, path: Path) -> None:
    """Write a record, whole or not at all; its folder is made if need be.

    Raises:
        OSError: It cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as partial:
        # ASCII: a name or an error may hold what is no UTF-8.
        partial.write_text(json.dumps(record.as_json(), indent=1, allow_nan=False) + "\n", encoding="ascii")


def read_record(path: Path) -> RunRecord:
    """Read a record.

    Raises:
        CaseError: The file is missing, no JSON, or no record of this format.
    """
    where = path.name
    if not path.is_file():
        raise CaseError(where, "run record must be a file", str(path))
    content = read_json(CaseFile(path, where))
    if not isinstance(content, dict) or not set(content) >= _KEYS_OF_ANY:
        raise CaseError(where, f"must be a run record, an object with {' and '.join(sorted(_KEYS_OF_ANY))}")
    if content["format"] != FORMAT or isinstance(content["format"], bool):
        raise CaseError(f"{where} format", f"must be {FORMAT}", shown(content["format"]))
    record = from_json(RunRecord, content, where=where)
    if record.executed is not None:
        read_executed(content["executed"], where=f"{where} executed")
    return record


def is_record(path: Path) -> bool:
    """Whether a file holds a run record, of whichever format."""
    try:
        content = read_json(CaseFile(path, path.name))
    except CaseError:
        return False
    return isinstance(content, dict) and set(content) >= _KEYS_OF_ANY
