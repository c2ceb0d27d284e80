"""What went into a run: the case's files, the manifest and the weight files, by their digests."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from operation.run_record import InputFile, ManifestFile, ScanInputs, WeightFile
from petct.case import Case, Scan, Tracer
from petct.geometry import Grid, grid_of
from petct.manifest import Manifest
from petct.scan_files import CaseFile, ScanFiles
from segmentation.organ_maps import OrganSource, needs_totalsegmentator
from segmentation.totalsegmentator import WEIGHT_FILES, model_folders

_CHUNK_BYTES = 1 << 20


class FileDigests:
    """Lengths and sha256 of files, found by a thread of its own while they are read and computed with.

    The thread reads what the readers have just read, or are about to, so the disk is asked once.

    Args:
        paths: The files.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._found: dict[Path, tuple[int, str]] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(tuple(paths),), name="digests", daemon=True)
        self._thread.start()

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait until all are found, or for some time."""
        self._thread.join(timeout_s)

    def stop(self) -> None:
        """Find no more, and wait until that is so."""
        self._stopped.set()
        self._thread.join()

    def of(self, path: Path) -> tuple[int, str] | None:
        """Bytes and hex digest of a file, or None while they are not known, or when it cannot be read."""
        return self._found.get(path)

    def _run(self, paths: tuple[Path, ...]) -> None:
        buffer = bytearray(_CHUNK_BYTES)
        for path in paths:
            try:
                found = self._digest(path, buffer)
            except OSError:  # the case's reader says why
                continue
            if found is None:
                return
            self._found[path] = found

    def _digest(self, path: Path, buffer: bytearray) -> tuple[int, str] | None:
        digest, held_bytes = hashlib.sha256(), 0
        # Opening a pipe that nobody writes to would otherwise wait for ever.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError("no regular file")
            while count := file.readinto(buffer):
                if self._stopped.is_set():
                    return None
                digest.update(memoryview(buffer)[:count])
                held_bytes += count
        return held_bytes, digest.hexdigest()


def files_of(files: ScanFiles) -> dict[str, CaseFile]:
    """A scan's files by what they are."""
    found = {"pet": files.pet, "ct": files.ct, "threshold": files.threshold}
    return found if files.organs is None else found | {"organs": files.organs}


def scan_inputs(
    files: Mapping[Tracer, ScanFiles], *, digests: FileDigests, case: Case | None, source: OrganSource | None
) -> dict[Tracer, ScanInputs]:
    """What the scans came from.

    Args:
        files: The files of each scan.
        digests: Their digests, as far as they are known.
        case: What was read from them, or None.
        source: Where organ maps were asked for, or None.
    """
    return {
        tracer: _scan_inputs(
            scan_files, digests=digests, scan=case.scan(tracer) if case is not None else None, source=source
        )
        for tracer, scan_files in files.items()
    }


def _scan_inputs(
    files: ScanFiles, *, digests: FileDigests, scan: Scan | None, source: OrganSource | None
) -> ScanInputs:
    grids: dict[str, Grid] = {}
    organs = None
    if scan is not None:
        grids = {"pet": grid_of(scan.pet), "ct": grid_of(scan.ct)}
        if scan.organs is not None:
            grids["organs"] = grid_of(scan.organs)
        if source is not None:
            is_computed = needs_totalsegmentator(scan, source=source)
            organs = OrganSource.TOTALSEGMENTATOR if is_computed else OrganSource.GIVEN
    entries = {}
    for what, file in files_of(files).items():
        found_bytes, sha256 = digests.of(file.path) or (None, None)
        entries[what] = InputFile(file.where, bytes=found_bytes, sha256=sha256, grid=grids.get(what))
    return ScanInputs(suv_threshold=None if scan is None else scan.suv_threshold, organs=organs, files=entries)


def manifest_file(manifest: Manifest) -> ManifestFile:
    """The manifest's file, as it was read."""
    return ManifestFile(
        name=manifest.name,
        file=manifest.path.name,
        sha256=hashlib.sha256(manifest.content).hexdigest(),
        text=manifest.content.decode("utf-8"),
    )


def weight_files(manifest: Manifest, *, case: Case, source: OrganSource) -> tuple[WeightFile, ...]:
    """The weight files of a case, after `check_member_files` and, where organs are computed, `check_organ_weights`."""
    members = dict.fromkeys(member for tracer in Tracer for member in _members(manifest, tracer))
    files = [WeightFile(f"member {name}", file, sha256) for name, digests in members for file, sha256 in digests]
    if any(needs_totalsegmentator(case.scan(tracer), source=source) for tracer in Tracer):
        needed = [f"{model}/{file}" for model in model_folders(manifest.organs.task) for file in WEIGHT_FILES]
        listed = manifest.organs.sha256
        files += [WeightFile("organs", file, listed.get(file)) for file in dict.fromkeys([*listed, *needed])]
    return tuple(files)


def _members(manifest: Manifest, tracer: Tracer) -> list[tuple[str, tuple[tuple[str, str], ...]]]:
    return [(member.name, tuple(member.sha256.items())) for member in manifest.tracer(tracer).members]
