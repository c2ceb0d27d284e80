"""The container's command line: one case, a server for many, or a look at what a run would meet."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Protocol

from operation import doctor, server
from operation.ending import Stopped, ended_by_signals
from operation.recording import Recording, recording
from operation.replay import read_replay
from operation.run_record import RECORD_NAME
from operation.service_case import CaseRunner
from operation.service_models import load_models
from operation.setting import Setting, add_options, choose_manifest, choose_setting
from operation.streams import say, steady_streams
from operation.timings import write_timings
from petct.errors import CaseError
from petct.output import prepare_output
from petct.stages import add, seconds_since_start

REFUSED_EXIT_CODE = 1
FAILED_EXIT_CODE = 2
# Whoever hangs does not watch the clock; the planner ends in time, and this is for when it cannot.
_HANGS_AFTER = 1.1  # times the time limit


log = logging.getLogger(__name__)


class RunCase(Protocol):
    """Reads a case, segments it and writes its masks."""

    def __call__(
        self, setting: Setting, *, case_folder: Path, output: Path, record: Recording, started_s: float
    ) -> None:
        """Run one case; it started at `started_s` by `time.monotonic`."""
        ...


def main(arguments: Sequence[str], *, run_case: RunCase) -> int:
    """The command line; without arguments, what the platform runs.

    Args:
        arguments: Options of one case, or `serve` or `doctor` and theirs.
        run_case: The method.

    Returns:
        The exit code: 0, 1 for what is refused, 2 for what failed, 128 + its number for a signal.
    """
    steady_streams()
    if arguments[:1] == ["doctor"]:
        return doctor.main(list(arguments[1:]), default_manifest=choose_manifest)
    is_server = arguments[:1] == ["serve"]
    options = _server_options(arguments[1:]) if is_server else _case_options(arguments)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S", stream=sys.stdout
    )
    # The platform flags everything on stderr of a good run, so libraries' warnings go to the log.
    logging.captureWarnings(True)
    return _serve(options, run_case=run_case) if is_server else _run_one(options, run_case=run_case)


def _case_options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="PSMA + FDG PET/CT in, one total-tumour-burden mask per tracer out.",
        epilog="Commands: serve, many cases over HTTP; doctor, whether a run will find what it needs. "
        "inference.py COMMAND --help explains one.",
    )
    add_options(parser)
    parser.add_argument(
        "--record", type=Path, help=f"write the run's record here ({RECORD_NAME} beside the masks, or in $TMPDIR)"
    )
    parser.add_argument("--replay", type=Path, metavar="RECORD", help="do a recorded run again, and compare the masks")
    parser.add_argument("--timings", type=Path, help="write here, as JSON, how long each stage took")
    return parser.parse_args(arguments)


def _server_options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="inference.py serve", description="Answer GET /health and POST /invoke, which runs the case in --input."
    )
    add_options(parser)
    server.add_options(parser)
    return parser.parse_args(arguments)


def _run_one(options: argparse.Namespace, *, run_case: RunCase) -> int:
    before_s = seconds_since_start()
    started_s = time.monotonic() - before_s

    def run() -> None:
        add("imports", before_s)
        # First, so that no refusal leaves an earlier run's masks to be taken for this one's.
        prepare_output(options.output)
        replay = None if options.replay is None else read_replay(options.replay)
        with recording(options.record, case_folder=options.input, output=options.output, replay=replay) as record:
            setting = choose_setting(options)
            with _ended_when_it_hangs(setting if replay is None else None, started_s=started_s):
                run_case(setting, case_folder=options.input, output=options.output, record=record, started_s=started_s)
        if options.timings is not None:
            try:
                write_timings(options.timings, setting=setting)
            except OSError as error:  # the masks are there, and recorded
                log.warning("timings: must be written to %s, got %s", options.timings, error.strerror)

    runner = CaseRunner(run, clear=lambda: prepare_output(options.output))

    def end_by_force(name: str) -> None:
        runner.abandon()
        _say_stopped(name)

    try:
        with ended_by_signals(when_heard=lambda _: None, clean_up=end_by_force):
            outcome = runner.run()
    except Stopped as stopped:
        _say_stopped(stopped.name)
        return stopped.exit_code
    if outcome.status is HTTPStatus.CREATED:
        return 0
    # The platform shows a user the last line of stderr and nothing else.
    say(outcome.line)
    return REFUSED_EXIT_CODE if outcome.status is HTTPStatus.UNPROCESSABLE_ENTITY else FAILED_EXIT_CODE


def _serve(options: argparse.Namespace, *, run_case: RunCase) -> int:
    setting: Setting | None = None

    def load() -> None:
        nonlocal setting
        setting = choose_setting(options)
        load_models(setting)

    def invoke() -> None:
        if setting is None:
            raise ValueError("the models must be loaded before a case is run")
        started_s = time.monotonic()
        prepare_output(options.output)
        with (
            recording(None, case_folder=options.input, output=options.output) as record,
            _ended_when_it_hangs(setting, started_s=started_s),
        ):
            run_case(setting, case_folder=options.input, output=options.output, record=record, started_s=started_s)

    try:
        server.serve(load, invoke, host=options.host, port=options.port, clear=lambda: prepare_output(options.output))
    except CaseError as error:
        say(str(error))
        return REFUSED_EXIT_CODE


@contextmanager
def _ended_when_it_hangs(setting: Setting | None, *, started_s: float) -> Iterator[None]:
    """End what follows by SIGALRM some time after its time limit, if it has one; a replay, None, has none."""
    if setting is None or setting.time_limit_s is None:
        yield
        return
    left_s = started_s + _HANGS_AFTER * setting.time_limit_s - time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, max(left_s, 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _say_stopped(name: str) -> None:
    say(f"inference: must end by itself, got {name} (a time limit, or somebody stopped it)")
