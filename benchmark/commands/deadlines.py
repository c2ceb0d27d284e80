"""`python -m benchmark deadlines`."""

from __future__ import annotations

import argparse
import logging
import sys

from training.commands.arguments import count

HELP = "run the deadline planner against simulated devices: cases late, masks without a window, share of the ensemble"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--cases", type=count, default=1000, help="random cases (%(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the first of them; the next have the next (%(default)s)"
    )


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code: 1 when a case was late or a mask without a window for no reason."""
    from random import Random

    from benchmark.deadline_simulation import Outcome, random_case, summarise
    from petct.decisions import forget_decisions

    # Thousands of simulated losses are no news.
    logging.getLogger("petct.decisions").setLevel(logging.CRITICAL)
    outcomes: list[Outcome] = []
    for seed in range(options.seed, options.seed + options.cases):
        outcomes.append(random_case(Random(seed)))
        forget_decisions()
    found = summarise(outcomes)
    rows = (
        ("simulated cases", f"{found.cases}"),
        ("late, beyond one piece of work that nothing interrupts", f"{found.late}"),
        ("beyond the limit because one such piece took so long", f"{found.beyond_limit}"),
        ("- of those, on a device that stayed as fast as it was", f"{found.beyond_at_rest}"),
        ("masks without a single window, where there was time for ten", f"{found.without_windows}"),
        ("cases with less time than that", f"{found.short}"),
        ("- masks without a single window in them", f"{found.short_without}"),
        ("masks of the windows with the highest uptake only", f"{found.in_part}"),
        ("steady cases all of which fitted in 3/4 of the time", f"{found.all_fit}"),
        ("- all of which was run", f"{found.all_run}"),
        ("value of what was run, of the best possible: mean", f"{100 * found.kept:.1f} %"),
        ("- nine in ten cases have at least", f"{100 * found.kept_tenth:.1f} %"),
    )
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value:>8}")
    if found.late or found.without_windows:
        print("benchmark deadlines: no case may be late, and no mask without a window", file=sys.stderr)
        return 1
    return 0
