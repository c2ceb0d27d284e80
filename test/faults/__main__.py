"""Tries every fault and prints what became of it; see test/run_faults.sh."""

from __future__ import annotations

import argparse
import logging
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten

from faults.fault import Where
from faults.machines import Container, Host, Machine
from faults.table import table
from faults.trials import Trial, Trials

log = logging.getLogger("faults")

_WIDEST = 150  # characters of an outcome in the table for readers


def main() -> int:
    """The command line; exit code 1 when a run did not end as it must."""
    parser = argparse.ArgumentParser(description="Try faults that strike while the program runs.")
    parser.add_argument("--image", help="name and tag; without it, the program runs on this machine")
    parser.add_argument("--only", default="", help="faults whose name and stage match this regular expression")
    parser.add_argument("--markdown", type=Path, help="write the table here, too")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    machine: Machine = Container(options.image) if options.image else Host()
    chosen = [
        fault
        for fault in table()
        if fault.where in (Where.BOTH, machine.where) and re.search(options.only, fault.title)
    ]
    trials: list[Trial] = []
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        Path(folder).chmod(0o755)
        tried = Trials(machine, folder=Path(folder))
        for number, fault in enumerate(chosen, start=1):
            trials.append(tried.run(fault))
            _report(trials[-1], number=number, total=len(chosen))
    bad = sum(bool(trial.wrong) for trial in trials)
    log.info("%d faults, %d ended as they must, %d did not", len(trials), len(trials) - bad, bad)
    if options.markdown:
        options.markdown.write_text(_markdown(trials), encoding="utf-8")
    return 1 if bad or not trials else 0


def _report(trial: Trial, *, number: int, total: int) -> None:
    how = "FAILED" if trial.wrong else "ok"
    title, seconds = trial.fault.title, trial.ended.seconds
    log.info("%s: %s: %s, %.1f s (%d of %d)", how, title, trial.became, seconds, number, total)
    for fault in trial.wrong:
        log.info("    %s", fault)


def _markdown(trials: Sequence[Trial]) -> str:
    lines = ["| fault | stage | outcome | s | s after the signal |", "|---|---|---|---:|---:|"]
    for trial in trials:
        after_s = trial.ended.seconds_after_signal
        became = f"**NOT AS IT MUST:** {'; '.join(trial.wrong)}" if trial.wrong else trial.became
        cells = (
            trial.fault.name,
            trial.fault.stage,
            shorten(became, width=_WIDEST, placeholder=" ...").replace("|", "\\|"),
            f"{trial.ended.seconds:.1f}",
            "" if after_s is None else f"{after_s:.1f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
