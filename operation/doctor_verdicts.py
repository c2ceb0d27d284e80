"""A verdict of the doctor: what was looked at, whether it will do, and what to do if it will not."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import torch

from petct.errors import CaseError, one_line
from petct.manifest import Manifest


class Level(StrEnum):
    """How bad it is: nothing, slower or less safe than it could be, or cases will fail."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"


@dataclass(frozen=True)
class Verdict:
    """One line of the doctor.

    Attributes:
        level: How bad it is.
        about: What was looked at, in a word or two.
        text: What was found: `rule, got value unit` where it is not ok.
        remedy: What to do about it, or "".
    """

    level: Level
    about: str
    text: str
    remedy: str = ""

    @property
    def line(self) -> str:
        """The verdict as one printable line."""
        remedy = f" -> {self.remedy}" if self.remedy else ""
        return f"{self.level:<4} {one_line(f'{self.about}: {self.text}{remedy}')}"


@dataclass(frozen=True)
class Place:
    """Where cases would run, whatever networks they run.

    Attributes:
        program: The folder of the program, with its lists of packages.
        output: Where masks would go; None if that is not to be looked at.
        wanted_device: The device that was asked for: `auto`, `cuda` or `cpu`.
    """

    program: Path
    output: Path | None
    wanted_device: str


@dataclass(frozen=True)
class Networks:
    """What cases would run.

    Attributes:
        manifest: The manifest.
        device: The device that they would be computed on.
    """

    manifest: Manifest
    device: torch.device


def ok(about: str, text: str) -> Verdict:
    """Nothing is wrong."""
    return Verdict(Level.OK, about, text)


def warn(about: str, text: str, *, remedy: str) -> Verdict:
    """Cases run, but slower or less safely than they could."""
    return Verdict(Level.WARN, about, text, remedy)


def fail(about: str, text: str, *, remedy: str) -> Verdict:
    """Cases fail."""
    return Verdict(Level.FAIL, about, text, remedy)


def refused(error: CaseError, *, remedy: str) -> Verdict:
    """A case would be refused for this."""
    text = error.rule if error.got is None else f"{error.rule}, got {error.got}"
    return Verdict(Level.FAIL, error.where, text, remedy)


def gib(size_bytes: float) -> str:
    """A size for people."""
    mib = size_bytes / 2**20
    return f"{mib:.0f} MiB" if mib < 1024 else f"{mib / 1024:.1f} GiB"
