"""The manifest: which networks, thresholds and rules make up a run. Everything is written down, nothing defaulted."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from petct.case import Tracer
from petct.channels import OrganEncoding
from petct.errors import CaseError
from petct.organs import Organ
from petct.typed_table import TypedTable

MANIFEST_NAME = "manifest.toml"  # what a manifest is called inside a model tarball


class Architecture(StrEnum):
    """The three network families, by the name of nnU-Net's plans for them."""

    PLAIN = "plain"
    RESENC_M = "resenc_m"
    RESENC_L = "resenc_l"


class Checkpoint(StrEnum):
    """Which of the two checkpoints that nnU-Net keeps of a training."""

    FINAL = "final"
    BEST = "best"


class OrganTask(StrEnum):
    """TotalSegmentator's `total` task at 1.5 mm, 3 mm and 6 mm."""

    TOTAL = "total"
    FAST = "fast"
    FASTEST = "fastest"


class Mode(StrEnum):
    """How much work a case is given.

    Exact: nnU-Net's own windows and mirrorings. Balanced: windows in the patient's body only, where that saves half of
    them. Fast: fewer windows, near what can end up in the mask, and at most two mirrorings.
    """

    EXACT = "exact"
    BALANCED = "balanced"
    FAST = "fast"


class Backend(StrEnum):
    """What computes the networks: OpenVINO on a CPU if it is installed and PyTorch otherwise, or a named one."""

    AUTO = "auto"
    TORCH = "torch"
    OPENVINO = "openvino"


@dataclass(frozen=True)
class Member:
    """One model of the ensemble: an nnU-Net configuration with its trained folds.

    Attributes:
        name: What to call it in logs.
        folder: The packed model's folder (absolute).
        architecture: Network family.
        dataset_id: nnU-Net data set number (801, 802, 901, ...).
        folds: The folds whose logits are averaged.
        checkpoint: Which checkpoint of the folds.
        organ_encoding: How it sees the organs.
        weight: Its weight in the average of probabilities, > 0.
        sha256: Hex digest per file, paths relative to `folder`.
    """

    name: str
    folder: Path
    architecture: Architecture
    dataset_id: int
    folds: tuple[int, ...]
    checkpoint: Checkpoint
    organ_encoding: OrganEncoding
    weight: float
    sha256: Mapping[str, str]


@dataclass(frozen=True)
class Refinement:
    """The PSMA-guided logistic filter on FDG lesions: p = 1 / (1 + exp(-(sum of coefficient x feature + intercept))).

    Attributes:
        psma_present: Coefficient of "PSMA shows disease in a label that the lesion touches" (0 or 1).
        log_volume: Coefficient of log(volume in mL + 1).
        suv_max: Coefficient of SUVmax.
        intercept: Intercept.
        keep_probability: A lesion is kept at or above this p.
        keep_above_ml: A lesion larger than this is kept whatever p is.
        keep_unlabelled: Whether a lesion that touches no labelled anatomy is kept whatever p is.
    """

    psma_present: float
    log_volume: float
    suv_max: float
    intercept: float
    keep_probability: float
    keep_above_ml: float
    keep_unlabelled: bool


@dataclass(frozen=True)
class TracerSettings:
    """What is done to one tracer's scan.

    Attributes:
        members: The ensemble, at least one.
        ttb_probability: A voxel is ttb where P(ttb) is above this.
        normal_probability: A voxel is normal where P(normal) is above this.
        regrow_radius_mm: Radius of regrowing in mm, >= 0.
        protected_organs: Organs inside which nothing is grown.
        refinement: The PSMA-guided filter; None for PSMA itself, or to switch it off.
    """

    members: tuple[Member, ...]
    ttb_probability: float
    normal_probability: float
    regrow_radius_mm: float
    protected_organs: frozenset[Organ]
    refinement: Refinement | None


@dataclass(frozen=True)
class OrganSettings:
    """How organs are found when the case brings no map.

    Attributes:
        task: Which of TotalSegmentator's models.
        weights: Folder in TotalSegmentator's own layout (absolute), its TOTALSEG_WEIGHTS_PATH.
        timeout_s: Time after which a run for one CT is given up, > 0.
        sha256: Hex digest per file, paths relative to `weights`; may be empty.
    """

    task: OrganTask
    weights: Path
    timeout_s: float
    sha256: Mapping[str, str]


@dataclass(frozen=True)
class Manifest:
    """A whole run's configuration.

    Attributes:
        path: The file that it was read from.
        name: Its name, for the log.
        warning: A line that every run logs as a warning (demo weights say here what they are), or "".
        mode: How much work a case is given.
        backend: What computes the networks.
        mirroring: Whether predictions are averaged over the mirrorings that a member was trained with.
        tile_step: Step of the sliding window as a fraction of the patch, in (0, 1].
        organs: How organs are found.
        psma: Settings of the PSMA scan.
        fdg: Settings of the FDG scan.
        content: What the file held when it was read; empty if it was not read from a file.
    """

    path: Path
    name: str
    warning: str
    mode: Mode
    backend: Backend
    mirroring: bool
    tile_step: float
    organs: OrganSettings
    psma: TracerSettings
    fdg: TracerSettings
    content: bytes = field(default=b"", repr=False, compare=False)

    def tracer(self, tracer: Tracer) -> TracerSettings:
        """The settings of one tracer."""
        return self.psma if tracer is Tracer.PSMA else self.fdg


def read_manifest(path: Path) -> Manifest:
    """Read and check a manifest; folders in it are relative to its own folder.

    Weight files are not looked at here: `segmentation.weight_files` does that.

    Args:
        path: A TOML file.

    Raises:
        CaseError: The file is missing or not TOML, or a key is missing, unknown, or of the wrong kind or value.
    """
    where = path.name
    if not path.is_file():
        raise CaseError(where, "manifest file is missing", str(path))
    try:
        content = path.read_bytes()
        entries = tomllib.loads(content.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CaseError(where, "manifest must be TOML in UTF-8", str(error)) from error
    except OSError as error:
        raise CaseError(where, "manifest must be readable", error.strerror) from error
    root = path.resolve().parent
    top = TypedTable(entries, where=where)
    manifest = Manifest(
        path=path,
        name=top.text("name"),
        warning=top.text("warning"),
        mode=top.choice("mode", Mode),
        backend=top.choice("backend", Backend),
        mirroring=top.flag("mirroring"),
        tile_step=top.number("tile_step", above=0.0, upto=1.0),
        organs=_organ_settings(top.table("organs"), root),
        psma=_tracer_settings(top.table("psma"), root, refined=False),
        fdg=_tracer_settings(top.table("fdg"), root, refined=True),
        content=content,
    )
    top.finish()
    return manifest


def _organ_settings(table: TypedTable, root: Path) -> OrganSettings:
    settings = OrganSettings(
        task=table.choice("task", OrganTask),
        weights=root / table.text("weights"),
        timeout_s=table.number("timeout_s", above=0.0),
        sha256=table.digests("sha256"),
    )
    table.finish()
    return settings


def _tracer_settings(table: TypedTable, root: Path, *, refined: bool) -> TracerSettings:
    settings = TracerSettings(
        members=tuple(_member(entry, root) for entry in table.tables("members")),
        ttb_probability=table.number("ttb_probability", above=0.0, upto=1.0),
        normal_probability=table.number("normal_probability", above=0.0, upto=1.0),
        regrow_radius_mm=table.number("regrow_radius_mm", at_least=0.0),
        protected_organs=table.organs("protected_organs"),
        refinement=_refinement(table.table("refinement")) if refined and table.has("refinement") else None,
    )
    table.finish()
    return settings


def _refinement(table: TypedTable) -> Refinement:
    refinement = Refinement(
        psma_present=table.number("psma_present"),
        log_volume=table.number("log_volume"),
        suv_max=table.number("suv_max"),
        intercept=table.number("intercept"),
        keep_probability=table.number("keep_probability", above=0.0, upto=1.0),
        keep_above_ml=table.number("keep_above_ml", above=0.0),
        keep_unlabelled=table.flag("keep_unlabelled"),
    )
    table.finish()
    return refinement


def _member(table: TypedTable, root: Path) -> Member:
    member = Member(
        name=table.text("name"),
        folder=root / table.text("folder"),
        architecture=table.choice("architecture", Architecture),
        dataset_id=table.whole("dataset_id"),
        folds=table.wholes("folds"),
        checkpoint=table.choice("checkpoint", Checkpoint),
        organ_encoding=table.choice("organ_encoding", OrganEncoding),
        weight=table.number("weight", above=0.0),
        sha256=table.digests("sha256"),
    )
    table.finish()
    return member
