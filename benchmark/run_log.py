"""The runs of a benchmark, written down one by one, so that one that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = "reference"  # beside the names of our modes
# What a run's time and result depend on, beside the manifest, the case and the installed packages.
_MEASURED_CODE = (
    "inference.py",
    "petct/**/*.py",
    "segmentation/**/*.py",
    "postprocessing/**/*.py",
    *(f"benchmark/{name}.py" for name in ("measure", "reference*", "stock_predict", "unpack*")),
)


@dataclass(frozen=True)
class RunRecord:
    """One cold run.

    Attributes:
        round: Its round, from 0.
        who: `reference`, or the name of one of our modes.
        started: When, ISO 8601 in UTC.
        load_before: The machine's load average over a minute before it: anything else that was computing.
        exit_code: 0 for a good run.
        error: The last line that a failed run said, else None.
        total_s: Wall time of the whole process.
        network_s: Wall time of the networks' sliding windows, as the program itself took it; None when it did not.
        cpu_s: Processor time.
        peak_host_mib: Peak memory of all its processes together.
        peak_process_mib: Peak memory of the largest of them.
        peak_gpu_mib: Peak GPU memory that torch reserved in one process, as the program says; None without a GPU.
        stages_s: Seconds per stage, as the program took them.
        timings: All that the program says of itself.
    """

    round: int
    who: str
    started: str
    load_before: float
    exit_code: int
    error: str | None
    total_s: float
    network_s: float | None
    cpu_s: float
    peak_host_mib: float
    peak_process_mib: float
    peak_gpu_mib: float | None
    stages_s: Mapping[str, float]
    timings: Mapping[str, Any]

    @property
    def is_good(self) -> bool:
        """Whether the run ended well."""
        return self.exit_code == 0

    @property
    def non_network_s(self) -> float | None:
        """All of the wall time that is not the network's."""
        return None if self.network_s is None else self.total_s - self.network_s


class RunLog:
    """A JSON-lines file of runs.

    Args:
        file: The file; its folder must be there.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def append(self, record: RunRecord) -> None:
        """Write a run down; it is on the disk when this returns."""
        with self._file.open("ab+") as stream:
            stream.seek(-1 if stream.tell() else 0, os.SEEK_END)
            is_cut_off = stream.read() not in (b"", b"\n")  # stopped while it was written
            stream.write(("\n" if is_cut_off else "").encode() + json.dumps(asdict(record)).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())

    def read(self) -> list[RunRecord]:
        """All runs in their order; a line that was cut off counts as not there."""
        if not self._file.is_file():
            return []
        records = []
        for line in self._file.read_text(encoding="utf-8").splitlines():
            try:
                records.append(RunRecord(**json.loads(line)))
            except json.JSONDecodeError:
                continue
        return records

    def good(self) -> list[RunRecord]:
        """The good runs, one per round and name."""
        return list({(record.round, record.who): record for record in self.read() if record.is_good}.values())


def code_digest(root: Path = ROOT) -> str:
    """SHA-256 of all the code that runs are measured of."""
    digest = hashlib.sha256()
    for pattern in _MEASURED_CODE:
        for file in sorted(root.glob(pattern)):
            digest.update(f"{file.relative_to(root)} {len(file.read_bytes())}\n".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()
