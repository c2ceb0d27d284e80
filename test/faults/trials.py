"""Tries faults, and knows what an undisturbed run gives."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from faults.fault import Ended, Fault, Outcome, Place
from faults.judging import faults_of, voxels_of
from faults.kit import Kit, lay_out, make_demo_kit, make_kit
from faults.machines import Machine
from petct.case import Tracer

Masks = Mapping[Tracer, np.ndarray]


@dataclass(frozen=True)
class Trial:
    """A fault, what is left of its run, and what is wrong with that."""

    fault: Fault
    ended: Ended
    wrong: list[str]

    @property
    def became(self) -> str:
        """What became of it, in a few words."""
        if self.ended.code == 0:
            return "both masks, correct"
        return f"no mask, exit code {self.ended.code}: {self.ended.last_line or '(nobody is left to say why)'}"


class Trials:
    """Tries faults on one machine.

    Args:
        machine: Where.
        folder: An empty folder to work in.
    """

    def __init__(self, machine: Machine, *, folder: Path) -> None:
        self._machine = machine
        self._folder = folder
        self._kits: dict[bool, Kit] = {}
        self._references: dict[tuple[bool, bool], Masks] = {}

    def run(self, fault: Fault) -> Trial:
        """Run the program while the fault strikes, in folders of its own that are gone afterwards."""
        with self._place(fault) as place:
            ended = self._machine.run(fault, place=place)
            return Trial(fault, ended, faults_of(fault, ended, place=place, reference=lambda: self._reference(fault)))

    @contextmanager
    def _place(self, fault: Fault) -> Iterator[Place]:
        kit = self._kit(is_large=fault.is_large)
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            yield lay_out(kit, Path(folder), fault=fault)

    def _kit(self, *, is_large: bool) -> Kit:
        if is_large not in self._kits:
            folder = self._folder / ("demo" if is_large else "tiny")
            folder.mkdir()
            self._kits[is_large] = make_demo_kit(folder) if is_large else make_kit(folder)
        return self._kits[is_large]

    def _reference(self, fault: Fault) -> Masks:
        """The masks of a run of the same case that nothing strikes."""
        key = fault.is_large, fault.finds_organs
        if key not in self._references:
            with self._place(fault) as place:
                undisturbed = Fault(
                    "none", "whole run", Outcome.MASKS, is_large=fault.is_large, finds_organs=fault.finds_organs
                )
                ended = self._machine.run(undisturbed, place=place)
                masks = voxels_of(place)
            if ended.code or ended.stderr or len(masks) != len(Tracer) or not all(map(np.any, masks.values())):
                raise RuntimeError(f"an undisturbed run must give masks and leave stderr empty, got {ended}")
            self._references[key] = masks
        return self._references[key]
