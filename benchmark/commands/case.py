"""`python -m benchmark --case NAME --json FILE`."""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from benchmark.cases import BenchmarkCase, CaseName, describe_case, make_case
from petct.errors import CaseError
from petct.manifest import Backend, Mode
from training.commands.arguments import count

HELP = "one case: the reference way and our modes in turns, each in a cold process; ratios and agreement"
DEFAULT_MANIFEST = Path(__file__).resolve().parents[2] / "resources" / "demo.toml"
DEFAULT_WORK = Path("benchmark_work")

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    case = parser.add_mutually_exclusive_group(required=True)
    case.add_argument("--case", choices=[name.value for name in CaseName], help="a phantom, made on first use")
    case.add_argument("--case-dir", type=Path, help="a case with organ maps, in either layout")
    parser.add_argument("--json", type=Path, required=True, help="results go here; a file that is there is replaced")
    parser.add_argument("--manifest", type=Path, default=DEFAULT_MANIFEST, help="for both ways (demo.toml)")
    parser.add_argument("--modes", nargs="+", choices=[mode.value for mode in Mode], default=[m.value for m in Mode])
    parser.add_argument("--repeats", type=count, default=3, help="rounds of one run of each (%(default)s)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(%(default)s)")
    parser.add_argument(
        "--backend",
        choices=[backend.value for backend in Backend],
        default=Backend.AUTO.value,
        help="what computes our networks; auto leaves it to inference.py (%(default)s)",
    )
    parser.add_argument(
        "--skip-reference", action="store_true", help="our modes alone: no ratios, masks compared with those of exact"
    )
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK, help="cases, unpacked weights, runs (%(default)s)")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="measure again what was measured with the same case, manifest, code and machine; else that is kept",
    )


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code: 1 when a run failed or could not be compared."""
    from benchmark.plan import Plan, describe_setting, runs_folder
    from benchmark.report import render
    from benchmark.rounds import run_rounds
    from benchmark.summary import is_complete, summarise
    from benchmark.unpack import unpack_manifest
    from petct.manifest import read_manifest
    from petct.written_whole import written_whole
    from segmentation.weight_files import sha256_of

    if not options.json.resolve().parent.is_dir():
        raise CaseError("--json", "folder must exist", str(options.json.parent))
    if "OMP_NUM_THREADS" in os.environ:
        log.warning("OMP_NUM_THREADS is set to %s: both ways may run slower", os.environ["OMP_NUM_THREADS"])
    manifest = read_manifest(options.manifest)
    with _stoppable():
        plan = Plan(
            case=_case(options),
            manifest=manifest,
            modes=tuple(Mode(mode) for mode in dict.fromkeys(options.modes)),
            has_reference=not options.skip_reference,
            repeats=options.repeats,
            device=_device(options.device),
            backend=Backend(options.backend),
        )
        models = options.work / "models" / f"{manifest.name}-{sha256_of(manifest.path)[:12]}"
        if plan.has_reference:
            unpack_manifest(manifest, folder=models)
        setting = describe_setting(plan)
        folder = runs_folder(plan, setting=setting, work=options.work)
        if options.overwrite:
            shutil.rmtree(folder, ignore_errors=True)
        records = run_rounds(plan, models=models, folder=folder)
    summary = summarise(plan, setting=setting, records=records, folder=folder)
    with written_whole(options.json) as partial:
        partial.write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    print(render([summary]), end="")
    return 0 if is_complete(summary) else 1


def _case(options: argparse.Namespace) -> BenchmarkCase:
    if options.case is not None:
        return make_case(CaseName(options.case), work=options.work)
    return describe_case(options.case_dir, name=options.case_dir.resolve().name)


def _device(wanted: str) -> str:
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise CaseError("--device", "CUDA must be available when it is asked for", "no CUDA device")
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


@contextmanager
def _stoppable() -> Iterator[None]:
    """Leave through an exception on SIGTERM, so that the run in progress is ended too."""
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop(_number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit("benchmark: stopped by SIGTERM; the same command goes on from here")
