"""`python -m training sweep`."""

from __future__ import annotations

import argparse
from pathlib import Path

from petct.errors import CaseError

HELP = "score out-of-fold predictions over the limits on P(ttb) and P(normal), as heat maps and tables"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--oof", type=Path, required=True, help="folder that predict-oof wrote")
    parser.add_argument("--patients", type=Path, required=True, help="folder of train_XXXX with truth")
    parser.add_argument("--manifest", type=Path, required=True, help="regrowing, and limits to compare with")
    parser.add_argument("--output", type=Path, required=True, help="folder for sweep_<tracer>.png and .csv")
    parser.add_argument("--tracer", choices=("psma", "fdg", "both"), default="both", help="(%(default)s)")
    parser.add_argument(
        "--step", type=float, default=0.05, help="limits are its multiples between 0 and 1 (%(default)s)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from petct.case import Tracer
    from petct.manifest import read_manifest
    from training.studies.out_of_fold.alike import read_alike_records
    from training.studies.sweep.choice import choices_table
    from training.studies.sweep.patients import sweep_tracer, write_sweep
    from training.studies.sweep.plot import draw_sweep

    if not 0.01 <= options.step <= 0.5:
        raise CaseError("--step", "must be within 0.01-0.5", f"{options.step}")
    # Rounded, so that 3 x 0.05 is the manifest's 0.15.
    limits = [round(n * options.step, 9) for n in range(1, 100) if n * options.step < 1.0 - 1e-9]
    manifest = read_manifest(options.manifest)
    records = list(read_alike_records(options.oof).values())
    tracers = [tracer for tracer in Tracer if options.tracer in (tracer.value, "both")]
    files = {tracer: options.output / f"sweep_{tracer}.png" for tracer in tracers}
    for file in (path.with_suffix(suffix) for path in files.values() for suffix in (".png", ".csv")):
        if file.exists() and not options.overwrite:
            raise CaseError(str(file), "file must not exist yet; use --overwrite to replace it")
    options.output.mkdir(parents=True, exist_ok=True)
    for tracer, picture in files.items():
        sweep = sweep_tracer(
            records, tracer=tracer, oof=options.oof, patients=options.patients, settings=manifest.tracer(tracer),
            limits=limits,
        )  # fmt: skip
        write_sweep(sweep, picture.with_suffix(".csv"))
        draw_sweep(sweep, picture)
        print(choices_table(sweep), end="\n\n")
    return 0
