"""What is to be measured, and what makes two measurements comparable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.cases import BenchmarkCase
from benchmark.machine import describe_machine, package_versions
from benchmark.run_log import REFERENCE, code_digest
from petct.manifest import Backend, Manifest, Mode
from segmentation.weight_files import sha256_of


@dataclass(frozen=True)
class Plan:
    """A benchmark of one case.

    Attributes:
        case: The case.
        manifest: Members, thresholds and rules, for both ways.
        modes: Our modes, in their order.
        has_reference: Whether the reference way runs too.
        repeats: Rounds, each of which runs everything once, >= 1.
        device: `cpu` or `cuda`.
        backend: What computes our networks.
    """

    case: BenchmarkCase
    manifest: Manifest
    modes: tuple[Mode, ...]
    has_reference: bool
    repeats: int
    device: str
    backend: Backend

    @property
    def names(self) -> tuple[str, ...]:
        """Who runs in each round, in the order of running."""
        return ((REFERENCE,) if self.has_reference else ()) + tuple(str(mode) for mode in self.modes)

    @property
    def compared_with(self) -> str | None:
        """Whose masks the others are compared with: the reference's, else those of `exact`; None without both."""
        if self.has_reference:
            return REFERENCE
        return str(Mode.EXACT) if Mode.EXACT in self.modes else None


def describe_setting(plan: Plan) -> dict[str, Any]:
    """All that a run's time and masks depend on, as JSON; runs of equal settings may be put together."""
    return {
        "case": {"name": plan.case.name, "sha256": plan.case.sha256, "scans": plan.case.scans},
        "manifest": {"name": plan.manifest.name, "sha256": sha256_of(plan.manifest.path)},
        "device": plan.device,
        "backend": str(plan.backend),
        "machine": describe_machine(),
        "versions": package_versions(),
        "code_sha256": code_digest(),
    }


def setting_digest(setting: Mapping[str, Any]) -> str:
    """Twelve hex digits that differ when settings do."""
    return hashlib.sha256(json.dumps(setting, sort_keys=True).encode()).hexdigest()[:12]


def runs_folder(plan: Plan, *, setting: Mapping[str, Any], work: Path) -> Path:
    """Where the runs of a plan's setting lie; their number and the modes are no part of it."""
    return work / "runs" / f"{plan.case.name}-{plan.manifest.name}-{setting_digest(setting)}"
