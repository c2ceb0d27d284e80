"""`python inference.py doctor`: will cases run here? One plain verdict per line, and an exit code."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from operation.doctor_devices import check_openvino, check_torch
from operation.doctor_folders import check_caches, check_output, check_temporary, check_user
from operation.doctor_machine import (
    check_clock,
    check_memory,
    check_processors,
    check_shared_memory,
    check_thread_limit,
    check_time_limit,
)
from operation.doctor_packages import check_packages, check_python
from operation.doctor_pass import check_forward_pass
from operation.doctor_verdicts import Level, Networks, Place, Verdict, fail, ok, refused, warn
from operation.doctor_weights import check_converted, check_members, check_organs
from petct.errors import CaseError, one_line
from petct.manifest import Manifest, read_manifest

Subject = TypeVar("Subject")

_OUTPUT = Path("/output")  # the platform's; elsewhere --output names it

# What costs nothing comes first, so that there is an answer to it whatever becomes of the rest.
_OF_PLACE: tuple[Callable[[Place], Iterator[Verdict]], ...] = (
    check_python,
    check_packages,
    check_user,
    check_temporary,
    check_output,
    check_caches,
    check_shared_memory,
    check_memory,
    check_processors,
    check_thread_limit,
    check_clock,
    check_time_limit,
    check_torch,
)
_OF_NETWORKS: tuple[Callable[[Networks], Iterator[Verdict]], ...] = (
    check_openvino,
    check_members,
    check_organs,
    check_converted,
    check_forward_pass,
)

log = logging.getLogger(__name__)


def main(arguments: list[str], *, default_manifest: Callable[[Path | None], Path]) -> int:
    """Look at everything that a case needs, and say of each thing whether it will do.

    Args:
        arguments: The command line after `doctor`.
        default_manifest: The manifest that a case would run with, from the one that is asked for or None.

    Returns:
        0 when cases can run (perhaps with warnings), 1 when something fails.
    """
    parser = argparse.ArgumentParser(
        prog="inference.py doctor",
        description="Say whether cases will run here: one verdict per line, exit code 1 if not.",
    )
    parser.add_argument("--manifest", type=Path, help="networks and rules that cases run with (as without doctor)")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto", help="(%(default)s)")
    parser.add_argument(
        "--output", type=Path, help=f"where masks are to go ({_OUTPUT} where there is one, else not looked at)"
    )
    options = parser.parse_args(arguments)
    output = options.output or (_OUTPUT if _OUTPUT.is_dir() else None)
    counts = dict.fromkeys(Level, 0)
    verdicts = examine(
        lambda: read_manifest(default_manifest(options.manifest)), wanted_device=options.device, output=output
    )
    for verdict in verdicts:
        counts[verdict.level] += 1
        _tell(verdict.line)
    summary = f"{counts[Level.OK]} ok, {counts[Level.WARN]} to be warned of, {counts[Level.FAIL]} failed"
    _tell(f"{summary}: cases {'cannot' if counts[Level.FAIL] else 'can'} run here")
    return 1 if counts[Level.FAIL] else 0


def examine(read: Callable[[], Manifest], *, wanted_device: str, output: Path | None) -> Iterator[Verdict]:
    """All verdicts, one by one as they are found.

    Args:
        read: Reads the manifest, or raises `CaseError`.
        wanted_device: `auto`, `cuda` or `cpu`.
        output: Where masks would go; None if that is not to be looked at.
    """
    manifest = None
    try:
        manifest = read()
    except CaseError as error:
        yield refused(error, remedy="name a manifest with --manifest, or write this one anew")
    else:
        yield from _manifest_verdicts(manifest)
    program = Path(__file__).resolve().parents[1]
    yield from run_checks(_OF_PLACE, Place(program=program, output=output, wanted_device=wanted_device))
    if manifest is not None:
        has_gpu = wanted_device != "cpu" and torch.cuda.is_available()
        networks = Networks(manifest=manifest, device=torch.device("cuda" if has_gpu else "cpu"))
        yield from run_checks(_OF_NETWORKS, networks)


def run_checks(checks: Sequence[Callable[[Subject], Iterator[Verdict]]], subject: Subject) -> Iterator[Verdict]:
    """The verdicts of checks; one that breaks is a failure itself, and the others go on."""
    for check in checks:
        about = check.__name__.removeprefix("check_").replace("_", " ")
        try:
            yield from check(subject)
        except CaseError as error:
            yield refused(error, remedy="see the lines above")
        except Exception as error:
            log.debug("%s", about, exc_info=True)
            found = one_line(f"{type(error).__name__}: {error}")
            yield fail(about, f"check must end without an error, got {found}", remedy="report it with all lines")


def _manifest_verdicts(manifest: Manifest) -> Iterator[Verdict]:
    yield ok("manifest", f"{manifest.name} ({manifest.path}), mode {manifest.mode}, backend {manifest.backend}")
    if manifest.warning:
        yield warn("manifest", manifest.warning, remedy="name another one with --manifest if that is not what you want")


def _tell(line: str) -> None:
    # At once: what follows may take seconds, or end the process.
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
