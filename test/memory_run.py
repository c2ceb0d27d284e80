"""Runs a case in a process of its own and says what memory was predicted for it and what it took.

As a program it is that process: `python memory_run.py CASE MANIFEST MODE BACKEND` prints what it holds and the
prediction as one line of JSON, then runs the case.
"""

import json
import os
import re
import resource
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from memory_peak import Watched, run_watched

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Measured:
    """A run and what was predicted for it.

    Attributes:
        watched: The run.
        held_bytes: VmData when the case had been read.
        predicted_bytes: What it was to take beyond that at most.
        predicted_by: The stage that the prediction is of.
    """

    watched: Watched
    held_bytes: int
    predicted_bytes: int
    predicted_by: str


def measure(case: Path, *, manifest: Path, mode: str, backend: str, limit_bytes: int) -> Measured:
    """Run a case under RLIMIT_DATA, watching VmData."""
    watched = run_watched(
        [sys.executable, str(Path(__file__)), str(case), str(manifest), mode, backend, str(limit_bytes)],
        environment=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'test'}"},
        timeout_s=1800.0,
    )
    said = re.search(r"^\{.*\}$", watched.log, re.MULTILINE)
    content = json.loads(said[0]) if said else {"held": 0, "predicted": 0, "where": ""}
    return Measured(watched, content["held"], content["predicted"], content["where"])


def main(case_folder: str, manifest_path: str, mode: str, backend: str, limit: str) -> None:
    import torch

    import inference
    from operation.memory_need import Compute, predict_need
    from operation.memory_plan import scan_size
    from petct.case import Tracer
    from petct.folders import read_case
    from petct.manifest import Backend, Mode, read_manifest
    from petct.memory import data_bytes_now
    from segmentation.memory_use import MemoryUse
    from segmentation.networks import choose_backend, choose_precision
    from segmentation.organ_maps import OrganSource, organ_maps

    manifest = replace(read_manifest(Path(manifest_path)), mode=Mode(mode), backend=Backend(backend))
    case, cpu = read_case(Path(case_folder)), torch.device("cpu")
    chosen = choose_backend(manifest.backend, device=cpu)
    scans = [case.scan(tracer) for tracer in Tracer]
    maps = organ_maps(
        scans, settings=manifest.organs, source=OrganSource.GIVEN, device=cpu, crop_to_body=manifest.mode is Mode.FAST
    )
    sizes = [scan_size(scan, organs=maps[scan.tracer], members=manifest.tracer(scan.tracer).members) for scan in scans]
    itemsize = choose_precision(manifest.mode, backend=chosen).itemsize
    compute = Compute(chosen, itemsize, is_gpu=False, threads=torch.get_num_threads())
    need = predict_need(sizes, use=MemoryUse.ample(), compute=compute)
    said = {"held": data_bytes_now(), "predicted": need.host_bytes, "where": need.where}
    sys.stdout.write(f"{json.dumps(said)}\n")
    sys.stdout.flush()
    resource.setrlimit(resource.RLIMIT_DATA, (int(limit), int(limit)))
    inference.segment_case(case, manifest=manifest, organ_source=OrganSource.GIVEN, device=cpu)


if __name__ == "__main__":
    main(*sys.argv[1:])
