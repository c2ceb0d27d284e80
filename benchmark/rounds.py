"""Rounds of cold runs: in each the reference way and our modes once, so that what disturbs one disturbs all."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmark.measure import ColdRun, run_cold
from benchmark.plan import Plan
from benchmark.run_log import REFERENCE, ROOT, RunLog, RunRecord
from petct.manifest import Backend

log = logging.getLogger(__name__)

RUN_TIMEOUT_S = 4 * 3600.0  # far above any run that somebody would wait for
# What Python runs, before the options.
REFERENCE_PROGRAM = ("-m", "benchmark.reference")
OUR_PROGRAM = (str(ROOT / "inference.py"),)


def run_rounds(plan: Plan, *, models: Path, folder: Path) -> list[RunRecord]:
    """Run what is not there yet; a name that fails is left out of the rounds to come.

    Args:
        plan: What to run.
        models: The unpacked members, for the reference way.
        folder: Where runs are written down and their masks, logs and timings kept.

    Returns:
        The good runs of the plan, those of earlier calls included, and the runs of this call that failed.
    """
    for kind in ("masks", "logs", "timings"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    run_log = RunLog(folder / "runs.jsonl")
    there = {(record.round, record.who) for record in run_log.good()}
    steps = [(number, who) for number in range(plan.repeats) for who in plan.names]
    if done := sum(step in there for step in steps):
        log.info("%d of %d runs are there already: %s", done, len(steps), folder)
    failed: dict[str, RunRecord] = {}
    for place, (number, who) in enumerate(steps, start=1):
        if (number, who) in there or who in failed:
            continue
        record = run_one(plan, who=who, number=number, models=models, folder=folder)
        run_log.append(record)
        if not record.is_good:
            failed[who] = record
        log.info("%s (%d of %d)", _line(record), place, len(steps))
    good = [record for record in run_log.good() if (record.round, record.who) in set(steps)]
    return [*sorted(good, key=lambda record: record.started), *failed.values()]


def run_one(plan: Plan, *, who: str, number: int, models: Path, folder: Path) -> RunRecord:
    """One cold run, measured."""
    name = f"{number}_{who}"
    output, timings_file, log_file = masks_folder(folder, number=number, who=who), *_files(folder, name)
    shutil.rmtree(output, ignore_errors=True)
    timings_file.unlink(missing_ok=True)
    started, load_before = datetime.now(UTC).isoformat(timespec="seconds"), os.getloadavg()[0]
    run = run_cold(
        _command(plan, who=who, models=models, output=output, timings=timings_file),
        log=log_file,
        folder=ROOT,
        environment=os.environ,
        timeout_s=RUN_TIMEOUT_S,
    )
    timings = _read_timings(timings_file)
    stages_s: dict[str, float] = timings.get("stages_s", {})
    return RunRecord(
        round=number,
        who=who,
        started=started,
        load_before=load_before,
        exit_code=run.exit_code,
        error=_last_line(log_file, run=run),
        total_s=run.wall_s,
        network_s=stages_s.get("network"),
        cpu_s=run.cpu_s,
        peak_host_mib=run.peak_host_mib,
        peak_process_mib=run.peak_process_mib,
        peak_gpu_mib=timings.get("peak_gpu_mib"),
        stages_s=stages_s,
        timings=timings,
    )


def masks_folder(folder: Path, *, number: int, who: str) -> Path:
    """The output folder of a run."""
    return folder / "masks" / f"{number}_{who}"


def _files(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / "timings" / f"{name}.json", folder / "logs" / f"{name}.txt"


def _command(plan: Plan, *, who: str, models: Path, output: Path, timings: Path) -> Sequence[str]:
    program = REFERENCE_PROGRAM if who == REFERENCE else OUR_PROGRAM
    command = [sys.executable, *program, "--input", str(plan.case.folder), "--output", str(output.resolve())]
    command += ["--manifest", str(plan.manifest.path.resolve()), "--device", plan.device]
    command += ["--timings", str(timings.resolve())]
    if who == REFERENCE:
        return [*command, "--models", str(models.resolve())]
    command += ["--organs", "given", "--mode", who]
    return command if plan.backend is Backend.AUTO else [*command, "--backend", str(plan.backend)]


def _read_timings(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    timings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return timings


def _last_line(log_file: Path, *, run: ColdRun) -> str | None:
    if run.exit_code == 0:
        return None
    if run.is_timed_out:
        return f"killed after {RUN_TIMEOUT_S:.0f} s"
    lines = log_file.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "(no output)")


def _line(record: RunRecord) -> str:
    name = f"{record.who}, round {record.round + 1}"
    if not record.is_good:
        return f"{name}: failed with exit code {record.exit_code}: {record.error}"
    network = "not told" if record.network_s is None else f"{record.network_s:.1f} s"
    return f"{name}: {record.total_s:.1f} s, network {network}, peak {record.peak_host_mib:.0f} MiB"
