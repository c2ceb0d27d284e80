"""What a run is asked for: the options that a single case and a server share, checked and made into a setting."""

from __future__ import annotations

import argparse
import logging
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from operation.deadline import Deadline
from petct.errors import CaseError
from petct.manifest import MANIFEST_NAME, Backend, Manifest, Mode, read_manifest
from segmentation.fold_runs import Executed
from segmentation.organ_maps import OrganSource
from segmentation.pace import Pace, Replayed, Unhurried

INPUT = Path("/input")
OUTPUT = Path("/output")
MODEL_TARBALL = Path("/opt/ml/model")  # where the platform unpacks the model tarball
DEFAULT_MANIFEST = Path(__file__).resolve().parents[1] / "resources" / "demo.toml"

TIME_LIMIT_VARIABLE = "PSMA_FDG_TTB_TIME_LIMIT_S"
# The platform's 30 minutes also pay for unpacking the model tarball and for moving input and output.
TIME_LIMIT_S = 25 * 60.0
_NO_LIMIT = "none"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setting:
    """What stays the same from case to case.

    Attributes:
        manifest: Networks and rules, with the mode and the backend that were asked for.
        organ_source: Where organ maps come from.
        device: Where the networks run.
        time_limit_s: Seconds that a case may take, > 0; None for as long as it takes.
    """

    manifest: Manifest
    organ_source: OrganSource
    device: torch.device
    time_limit_s: float | None


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that `choose_setting` reads, and the folders."""
    parser.add_argument(
        "--input", type=Path, default=INPUT, help="case in the platform's or the training set's layout (%(default)s)"
    )
    parser.add_argument(
        "--output", type=Path, default=OUTPUT, help="masks go to images/{psma,fdg}-pet-ttb under it (%(default)s)"
    )
    parser.add_argument(
        "--manifest",
        type=Path,
        help=f"networks and rules to run ({MODEL_TARBALL / MANIFEST_NAME} if it exists, else {DEFAULT_MANIFEST.name})",
    )
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto", help="(%(default)s)")
    parser.add_argument(
        "--organs",
        choices=[source.value for source in OrganSource],
        default=OrganSource.AUTO.value,
        help="take organ maps from the case if it has them, only from the case, or always compute them (%(default)s)",
    )
    parser.add_argument(
        "--mode",
        choices=[mode.value for mode in Mode],
        help="exact: nnU-Net's own windows; balanced: those of the body where that saves half; fast: fewer still, at "
        "most two mirrorings (the manifest's)",
    )
    parser.add_argument(
        "--backend", choices=[backend.value for backend in Backend], help="what computes networks (the manifest's)"
    )
    parser.add_argument(
        "--time-limit",
        metavar="SECONDS",
        help=f"seconds that a case may take, or {_NO_LIMIT}; what does not fit is given up and said "
        f"(${TIME_LIMIT_VARIABLE}, else {TIME_LIMIT_S:g})",
    )


def choose_setting(options: argparse.Namespace) -> Setting:
    """The setting that options ask for.

    Raises:
        CaseError: The manifest is missing or cannot be read, the device is not there, or the time limit is no number of
            seconds.
    """
    time_limit_s = choose_time_limit(options.time_limit)
    manifest = read_manifest(choose_manifest(options.manifest))
    manifest = replace(
        manifest,
        mode=manifest.mode if options.mode is None else Mode(options.mode),
        backend=manifest.backend if options.backend is None else Backend(options.backend),
    )
    log.info("manifest: %s (%s)", manifest.name, manifest.path)
    if manifest.warning:
        log.warning(manifest.warning)
    return Setting(
        manifest=manifest,
        organ_source=OrganSource(options.organs),
        device=choose_device(options.device),
        time_limit_s=time_limit_s,
    )


def choose_device(wanted: str) -> torch.device:
    """The device to compute on; `auto` takes the GPU when there is one.

    Raises:
        CaseError: `cuda` is asked for and there is none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise CaseError("--device", "CUDA must be available when it is asked for", "no CUDA device")
    device = torch.device("cuda" if wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available()) else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    log.info("device: %s", name)
    return device


def choose_manifest(wanted: Path | None) -> Path:
    """The manifest asked for, else the model tarball's, else the image's own.

    Raises:
        CaseError: There is a model tarball, and no manifest in it: the image's own would run other networks.
    """
    if wanted is not None:
        return wanted
    shipped = MODEL_TARBALL / MANIFEST_NAME
    if shipped.is_file():
        return shipped
    try:
        # What a mount or an archiver leaves behind is no model.
        held = sorted(path.name for path in MODEL_TARBALL.iterdir() if not path.name.startswith((".", "lost+found")))
    except (FileNotFoundError, NotADirectoryError):
        held = []
    except OSError as error:
        raise CaseError(str(MODEL_TARBALL), "model tarball must be readable", error.strerror) from error
    if held:
        rule = f"model tarball must hold the file {MANIFEST_NAME} at its top"
        raise CaseError(str(MODEL_TARBALL), rule, ", ".join(held[:5]))
    return DEFAULT_MANIFEST


def choose_time_limit(wanted: str | None) -> float | None:
    """The time limit asked for, else the environment's, else the platform's, in seconds; None for none.

    Raises:
        CaseError: It is neither a number of seconds above 0 nor the word for no limit.
    """
    where, text = "--time-limit", wanted
    if text is None:
        where, text = TIME_LIMIT_VARIABLE, os.environ.get(TIME_LIMIT_VARIABLE)
    if text is None:
        return TIME_LIMIT_S
    if text.strip().lower() == _NO_LIMIT:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        raise CaseError(where, f"time limit must be seconds above 0, or {_NO_LIMIT}", repr(text))
    return seconds


def choose_pace(setting: Setting, *, replayed: Executed | None, started_s: float) -> Pace:
    """What decides how much of the ensembles is run: a record of an earlier run, the clock, or nothing.

    Args:
        setting: What stays the same from case to case.
        replayed: What an earlier run did, if that is to be done again.
        started_s: When the case started, by `time.monotonic`.
    """
    if replayed is not None:
        return Replayed(replayed)
    if setting.time_limit_s is None:
        return Unhurried()
    return Deadline(setting.time_limit_s, started_s=started_s)
