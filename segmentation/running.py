"""How the networks of a run are run: mode, backend, windows' step, mirrorings, memory."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from petct.manifest import Backend, Manifest, Mode
from segmentation.memory_use import MemoryUse
from segmentation.networks import choose_backend, choose_precision
from segmentation.packed_model import PackedModel
from segmentation.sliding_window import all_mirrorings

FAST_MIRRORINGS = 2
FAST_TILE_STEP = 0.75
_LEFT_RIGHT = 2  # the array axis along which the two sides of a patient look most alike


@dataclass(frozen=True)
class Running:
    """How the networks are run.

    Attributes:
        mode: How much work a case is given.
        backend: PyTorch or OpenVINO.
        mirroring: Whether to average over the mirrorings that a member was trained with.
        tile_step: Step of the sliding window as a fraction of the patch, in (0, 1].
        device: Where the networks run.
        memory: What is held at the same time.
    """

    mode: Mode
    backend: Backend
    mirroring: bool
    tile_step: float
    device: torch.device
    memory: MemoryUse = field(default_factory=MemoryUse.ample)

    @classmethod
    def of(cls, manifest: Manifest, *, device: torch.device, memory: MemoryUse | None = None) -> Running:
        """What a manifest says, on a device, with as much memory as there is unless something else is said.

        Raises:
            CaseError: The manifest asks for OpenVINO, which is not there or not for the device.
        """
        backend = choose_backend(manifest.backend, device=device)
        held = MemoryUse.ample() if memory is None else memory
        return cls(manifest.mode, backend, manifest.mirroring, manifest.tile_step, device, held)

    @property
    def window_step(self) -> float:
        """Step of the sliding window in this mode, in (0, 1]."""
        return max(self.tile_step, FAST_TILE_STEP) if self.mode is Mode.FAST else self.tile_step

    def __str__(self) -> str:
        seen = {
            Mode.EXACT: "nnU-Net's own windows of the whole scan, all mirrorings",
            Mode.BALANCED: "windows of the body only, where that saves half of them, all mirrorings",
            Mode.FAST: f"windows of the body near what can be disease, {FAST_TILE_STEP:g} of a window apart, at most "
            f"{FAST_MIRRORINGS} mirrorings",
        }[self.mode]
        if self.backend is Backend.OPENVINO:
            return f"{self.mode}: {seen}; OpenVINO, {choose_precision(self.mode, backend=self.backend)}"
        return f"{self.mode}: {seen}; PyTorch, {'float16' if self.device.type == 'cuda' else 'float32'}"


def mirrorings_of(model: PackedModel, *, running: Running, at_most: int | None = None) -> list[tuple[int, ...]]:
    """The mirrorings of a run: all that the model was trained with, or in a fast run none and left to right.

    Args:
        model: The model.
        running: How it is run.
        at_most: How many there may be, >= 1; None for no other limit. Fewer than all are those along fewer axes, left
            to right the last to be left out.
    """
    axes = model.mirroring_axes if running.mirroring else ()
    most = 2 ** len(axes) if at_most is None else at_most
    if running.mode is Mode.FAST:
        most = min(most, FAST_MIRRORINGS)
    if most >= 2 ** len(axes):
        return all_mirrorings(axes)
    left_right = list(model.plans.transpose_forward).index(_LEFT_RIGHT)
    best = sorted(axes, key=lambda axis: axis != left_right)
    return all_mirrorings(best[: most.bit_length() - 1])
