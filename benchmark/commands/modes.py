"""`python -m benchmark modes`."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

HELP = "measure how far the modes balanced and fast are from exact on patients, in one process"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--patients", type=Path, required=True, help="folder of train_XXXX with organ maps")
    parser.add_argument(
        "--truth-in-patients", action="store_true", help="also measure the twelve metrics against their TTB"
    )
    parser.add_argument(
        "--json", type=Path, required=True, help="measurements; what it holds already is not measured again"
    )
    parser.add_argument("--manifest", type=Path, default=Path("resources/demo.toml"), help="(%(default)s)")
    parser.add_argument(
        "--modes", nargs="+", choices=("balanced", "fast"), default=["balanced", "fast"], help="(balanced fast)"
    )
    parser.add_argument(
        "--backend", choices=("auto", "torch", "openvino"), help="what computes the networks (the manifest's)"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="cpu", help="(%(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="measure all of it again")


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from benchmark.kept_rows import check_json
    from benchmark.mode_study import measure
    from benchmark.mode_summary import tables
    from operation.setting import choose_device
    from petct.case import Tracer
    from petct.errors import CaseError
    from petct.manifest import Backend, Mode, read_manifest
    from segmentation.weight_files import check_member_files
    from training.commands.arguments import patient_folders

    check_json(options.json)
    manifest = read_manifest(options.manifest)
    if options.backend:
        manifest = replace(manifest, backend=Backend(options.backend))
    for tracer in Tracer:
        for member in manifest.tracer(tracer).members:
            check_member_files(member)
    patients = patient_folders(options.patients)
    measured = measure(
        patients,
        manifest=manifest,
        modes=[Mode(name) for name in options.modes],
        has_truth=options.truth_in_patients,
        device=choose_device(options.device),
        file=options.json,
        overwrite=options.overwrite,
    )
    for line in measured.refused:
        print(line, file=sys.stderr)
    done = len(patients) - len(measured.refused)
    if not done:
        raise CaseError(str(options.patients), "must hold a patient that can be measured", f"0 of {len(patients)}")
    print(tables(measured.rows))
    print(f"\n{done} of {len(patients)} patients measured, {len(measured.refused)} left out")
    return 1 if measured.refused else 0
