"""Keeping a run's record while it runs, and writing it however the run ends."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from operation.machine import describe_machine, environment, package_versions
from operation.product import this_product
from operation.record_inputs import FileDigests, files_of, manifest_file, scan_inputs, weight_files
from operation.replay import Replay, check_same_masks, check_same_run
from operation.run_record import (
    FORMAT,
    RECORD_NAME,
    ManifestFile,
    MaskFound,
    Options,
    Outcome,
    OutcomeKind,
    RunRecord,
    Stage,
    WeightFile,
    is_record,
    write_record,
)
from operation.setting import Setting
from petct.case import Case, Tracer
from petct.decisions import decisions
from petct.errors import CaseError, one_line
from petct.geometry import Grid
from petct.mask_check import Mask
from petct.memory import peak_bytes
from petct.scan_files import ScanFiles
from petct.sockets import is_platform_layout
from petct.stages import counts, stage, stage_peak_bytes, stage_seconds
from postprocessing.lesions import label_lesions
from segmentation.fold_runs import Executed
from segmentation.networks import choose_backend

_PEAK = Path("/proc/self/clear_refs")
_FORGET_PEAK = "5"  # proc(5): reset the peak of the resident set to what is resident now
_GRACE_S = 1.0  # what a run that has failed waits for digests of its input

log = logging.getLogger(__name__)


class Recording:
    """One run's record while it is kept. A run tells it what it has, in the order of the methods.

    Args:
        replay: The run that is to be done again, or None.
    """

    def __init__(self, *, replay: Replay | None = None) -> None:
        self._replay = replay
        self._started = datetime.now(UTC)
        self._started_s = time.monotonic()
        self._setting: Setting | None = None
        self._manifest: ManifestFile | None = None
        self._options: Options | None = None
        self._files: Mapping[Tracer, ScanFiles] = {}
        self._digests = FileDigests(())
        self._case: Case | None = None
        self._weights: tuple[WeightFile, ...] = ()
        self._executed: Executed | None = None
        self._masks: dict[Tracer, MaskFound] = {}
        with suppress(OSError):  # then the peak is that of all cases before, too
            _PEAK.write_text(_FORGET_PEAK, encoding="ascii")

    def take_setting(self, setting: Setting) -> Setting:
        """What the run is asked for, before the case is looked at.

        Returns:
            The setting to run with: in a replay, what was asked for then.
        """
        if self._replay is not None:
            setting = self._replay.applied_to(setting)
        self._setting = setting
        if setting.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(setting.device)
        self._manifest = manifest_file(setting.manifest)
        self._options = Options(
            mode=setting.manifest.mode,
            backend=choose_backend(setting.manifest.backend, device=setting.device),
            organ_source=setting.organ_source,
            device=setting.device.type,
            threads=torch.get_num_threads(),
            time_limit_s=setting.time_limit_s,
        )
        return setting

    def take_files(self, files: Mapping[Tracer, ScanFiles]) -> None:
        """The case's files, before they are read; a thread begins to take their digests."""
        self._files = files
        self._digests = FileDigests([file.path for scan in files.values() for file in files_of(scan).values()])

    def take_case(self, case: Case) -> None:
        """The case, after the weight files were checked and before anything is computed.

        Raises:
            CaseError: This is a replay, and something that voxels may depend on is not what it was.
        """
        if self._setting is None:
            raise ValueError("the setting must be taken before the case")
        self._case = case
        self._weights = weight_files(self._setting.manifest, case=case, source=self._setting.organ_source)
        if self._replay is not None:
            self._digests.wait()
            now = self._record(Outcome(OutcomeKind.MASKS, error=None, masks={}))
            check_same_run(self._replay, now=now)

    @property
    def executed_then(self) -> Executed | None:
        """In a replay, which folds ran then, and how."""
        return None if self._replay is None else self._replay.record.executed

    def take_executed(self, executed: Executed) -> None:
        """Which folds ran, and how."""
        self._executed = executed

    def take_masks(self, masks: Mapping[Tracer, tuple[Mask, Grid]]) -> None:
        """Both masks, before they are written.

        Raises:
            CaseError: This is a replay, and a voxel is not what it was.
        """
        with stage("record"):
            self._masks = {tracer: _found(mask, grid=grid) for tracer, (mask, grid) in masks.items()}
        if self._replay is not None:
            check_same_masks(self._replay, masks=self._masks)

    def finish(self, *, kind: OutcomeKind, error: str | None) -> RunRecord:
        """The record, complete.

        Args:
            kind: How the run ended.
            error: Why there are no masks; None when there are.
        """
        if kind is not OutcomeKind.MASKS:
            self._digests.wait(_GRACE_S)
            self._digests.stop()
        self._digests.wait()
        masks = self._masks if kind is OutcomeKind.MASKS else {}
        return self._record(Outcome(kind, error=error, masks=masks))

    def _record(self, outcome: Outcome) -> RunRecord:
        setting = self._setting
        device = torch.device("cpu") if setting is None else setting.device
        peaks = stage_peak_bytes()
        return RunRecord(
            format=FORMAT,
            product=this_product(),
            versions=package_versions(),
            machine=describe_machine(device),
            environment=environment(),
            started_utc=self._started.isoformat(timespec="milliseconds"),
            ended_utc=datetime.now(UTC).isoformat(timespec="milliseconds"),
            options=self._options,
            manifest=self._manifest,
            weights=self._weights,
            scans=scan_inputs(
                self._files,
                digests=self._digests,
                case=self._case,
                source=None if setting is None else setting.organ_source,
            ),
            decisions=decisions(),
            executed=self._executed,
            stages={
                name: Stage(round(seconds, 4), round(peaks.get(name, 0) / 2**20, 1))
                for name, seconds in stage_seconds().items()
            },
            counts=counts(),
            total_s=round(time.monotonic() - self._started_s, 3),
            peak_host_mib=round(peak_bytes() / 2**20, 1),
            peak_gpu_mib=torch.cuda.max_memory_reserved(device) / 2**20 if device.type == "cuda" else None,
            outcome=outcome,
        )


@contextmanager
def recording(
    file: Path | None, *, case_folder: Path, output: Path, replay: Replay | None = None
) -> Iterator[Recording]:
    """Keep the record of the run that follows, and write it when the run ends, however it ends.

    Records of earlier runs are removed at once from where this one goes and from the output folder. A record that
    cannot be written is a warning in the log: it takes nobody's masks away.

    Args:
        file: Where the record goes; None for `record_file`'s choice.
        case_folder: The case.
        output: The output folder; it need not be there.
        replay: The run that is to be done again, or None.

    Yields:
        What the run tells what it has.

    Raises:
        CaseError: What lies where the record goes is something else, or the record that is replayed; in the folder for
            temporary files, when nobody asked for that place, it is a warning.
    """
    wanted = record_file(file, case_folder=case_folder, output=output)
    path: Path | None = wanted
    for old in dict.fromkeys((wanted, output / RECORD_NAME)):
        try:
            _remove_record(old, replay=replay)
        except CaseError as error:
            if file is not None or old == output / RECORD_NAME:
                raise
            # The folder for temporary files is everybody's: what others left there must not cost a case.
            log.warning("no run record is kept: %s", error)
            path = None
    record = Recording(replay=replay)
    kind, line = OutcomeKind.MASKS, None
    try:
        yield record
    except CaseError as error:
        kind, line = OutcomeKind.REFUSED, str(error)
        raise
    except BaseException as error:
        kind, line = OutcomeKind.FAILED, one_line(f"{type(error).__name__}: {error}")
        raise
    finally:
        if path is not None:
            _write(record, path, kind=kind, error=line, folders={"INPUT": case_folder, "OUTPUT": output})


def record_file(wanted: Path | None, *, case_folder: Path, output: Path) -> Path:
    """Where a run's record goes: what is asked for, else beside the masks.

    A case in the platform's layout leaves nothing in the output folder but the platform's own files; its record goes
    to the folder for temporary files.
    """
    if wanted is not None:
        return wanted
    try:
        is_platform = is_platform_layout(case_folder)
    except OSError:  # whoever reads the case says why
        is_platform = False
    # Not tempfile's word for it: a server gives every case a folder of its own, which goes with the case.
    return (Path(os.environ.get("TMPDIR") or "/tmp") if is_platform else output) / RECORD_NAME


def _remove_record(path: Path, *, replay: Replay | None) -> None:
    """Remove an earlier run's record, and nothing that is none."""
    try:
        is_there = path.exists() or path.is_symlink()
    except OSError:  # the folder cannot be looked into; the run, or the writing, will say so
        return
    if not is_there:
        return
    if replay is not None and replay.file.resolve() == path.resolve():
        rule = "the record that is replayed must not lie where this run's goes; name another --output or --record"
        raise CaseError(str(path), rule)
    if not is_record(path):
        raise CaseError(str(path), "must be free for this run's record, or hold an earlier run's", "something else")
    try:
        path.unlink()
    except OSError as error:
        raise CaseError(str(path), "an earlier run's record must be removable", error.strerror) from error


def _write(record: Recording, path: Path, *, kind: OutcomeKind, error: str | None, folders: Mapping[str, Path]) -> None:
    try:
        with stage("record"):
            line = None if error is None else _without_folders(error, folders)
            write_record(record.finish(kind=kind, error=line), path)
    except Exception as problem:  # noqa: BLE001 - what the run itself ends with matters more, whatever this is
        log.warning("run record: must be written to %s, got %s", path, one_line(f"{problem}"))
    else:
        log.info("run record: %s", path)


def _without_folders(text: str, folders: Mapping[str, Path]) -> str:
    """A line without the names of folders, which may name a patient."""
    for stand_in, folder in folders.items():
        for name in dict.fromkeys((str(folder.absolute()), str(folder))):
            if name not in (".", "/", ""):
                text = text.replace(name, stand_in)
    return text


def _found(mask: Mask, *, grid: Grid) -> MaskFound:
    voxels = int(np.count_nonzero(mask))
    return MaskFound(
        voxels_sha256=hashlib.sha256(np.ascontiguousarray(mask).view(np.uint8).data).hexdigest(),
        voxels=voxels,
        volume_ml=round(voxels * grid.voxel_ml, 3),
        lesions=label_lesions(mask)[1],
    )
