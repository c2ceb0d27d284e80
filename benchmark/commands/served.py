"""`python -m benchmark served`."""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import asdict
from pathlib import Path

from benchmark.commands.case import DEFAULT_MANIFEST, DEFAULT_WORK
from petct.manifest import Backend, Mode
from training.commands.arguments import count

log = logging.getLogger(__name__)

HELP = "cases one after the other in one process of the HTTP way, bad ones among them, and the memory that it holds"
DEMO_SEEDS = (2000, 2001)  # behind those that the demo networks were trained on


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--json", type=Path, required=True, help="results go here; a file that is there is replaced")
    parser.add_argument(
        "--cases", type=count, default=50, help="good cases, in turns; after every fifth comes a bad one (%(default)s)"
    )
    parser.add_argument(
        "--case-dirs", nargs="+", type=Path, help="cases of the training set's layout (two demo phantoms)"
    )
    parser.add_argument("--manifest", type=Path, default=DEFAULT_MANIFEST, help="(demo.toml)")
    parser.add_argument("--mode", choices=[mode.value for mode in Mode], help="(the manifest's)")
    parser.add_argument("--backend", choices=[backend.value for backend in Backend], help="(the manifest's)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(%(default)s)")
    parser.add_argument("--organs", choices=("auto", "given", "totalsegmentator"), default="auto", help="(%(default)s)")
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK, help="cases, links, the log (%(default)s)")


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code: 1 when a case was not answered as it should be."""
    from benchmark.kept_rows import check_json
    from benchmark.machine import describe_machine, package_versions
    from benchmark.served import ServedCase, bad_cases, order_of_cases, serve_cases, served
    from benchmark.served_summary import summarise, table
    from petct.written_whole import written_whole
    from training.networks.signals import exit_code, stoppable
    from training.phantoms.population import write_patients
    from training.phantoms.scanner import PhantomSize

    check_json(options.json)
    work = (options.work / "served").resolve()
    cases = options.case_dirs
    if cases is None:
        write_patients(DEMO_SEEDS, size=PhantomSize.DEMO, folder=work / "cases", processes=1)
        cases = [work / "cases" / f"train_{seed:04d}" for seed in DEMO_SEEDS]
    bad = bad_cases(cases[0], folder=work / "bad")
    # What a case is given up for is the clock's choice, and would make its masks differ from time to time.
    asked = ["--manifest", str(options.manifest.resolve()), "--device", options.device, "--time-limit", "none"]
    for name in ("mode", "backend", "organs"):
        if getattr(options, name) is not None:
            asked += [f"--{name}", getattr(options, name)]
    done: list[ServedCase] = []

    def keep(case: ServedCase) -> None:
        done.append(case)
        content = {
            "command": "served",
            "manifest": options.manifest.stem,
            "options": asked[2:],
            "machine": describe_machine(),
            "versions": package_versions(),
            "summary": asdict(summarise(done)),
            "cases": [asdict(one) for one in done],
        }
        with written_whole(options.json) as partial:
            partial.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")

    try:
        with stoppable(), served(asked, folder=work) as server:
            server.wait_until_healthy()
            order = list(order_of_cases(cases, bad=bad, cases=options.cases))
            serve_cases(order, server=server, keep=keep)
    except KeyboardInterrupt as stop:
        log.warning("stopped after %d cases", len(done))
        return exit_code(stop)
    summary = summarise(done)
    print(table(done, summary=summary))
    return 0 if summary.passes else 1
