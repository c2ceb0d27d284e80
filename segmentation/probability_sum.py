"""The weighted mean of what members say, as far as members were run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from petct.labels import Label
from segmentation.beside_networks import Background, BesideWork
from segmentation.export import Added, add_probabilities
from segmentation.fold_windows import probability_resampling
from segmentation.needed import Needed
from segmentation.packed_model import PackedModel
from segmentation.preprocessing import Preprocessed, whole_box
from segmentation.short_memory import Reliefs

Float = npt.NDArray[np.float32]


class ProbabilitySum:
    """Sums members' probabilities on a scan's grid, in the box around what is needed until all are there.

    Args:
        shape_zyx: The grid's number of voxels.
        weights: The weights of all members.
        device: Where to compute.
        background: Adds one member while the next is computed.
    """

    def __init__(
        self, shape_zyx: tuple[int, int, int], *, weights: list[float], device: torch.device, background: Background
    ) -> None:
        self._shape = shape_zyx
        self._held = whole_box(shape_zyx)
        self._sum = np.zeros(0, dtype=np.float32)
        self._total_weight = sum(weights)
        self._members = len(weights)
        self._device = device
        self._background = background
        self._added: list[float] = []
        self._last: BesideWork[None] | None = None

    def add(self, model: PackedModel, logits: torch.Tensor, *, seen: Preprocessed, needed: Needed | None) -> None:
        """Add a member.

        Args:
            model: Its model.
            logits: Its logits, in the network's voxels.
            seen: What its networks saw.
            needed: Where probabilities are needed, the same for all; everywhere when None.

        Raises:
            CaseError: There is too little memory for it, or for the member before.
        """
        self._wait()
        if not self._added:
            if needed is not None:
                self._held = needed.box() or (slice(0, 0), slice(0, 0), slice(0, 0))
            self._sum = self._zeros([side.stop - side.start for side in self._held])
        work = partial(
            add_probabilities,
            self._sum,
            logits,
            placement=seen.placement,
            part=seen.part,
            resampling=probability_resampling(model),
            weight=model.member.weight / self._total_weight,
            needed=needed,
            device=self._device,
            name=model.where,
            held=self._held,
            added=Added(),
        )
        self._last = BesideWork(work, background=self._background, what="probabilities")
        self._added.append(model.member.weight)

    def mean(self) -> Float:
        """The mean of the members that were added, (class, z, y, x); all is background when none was.

        Raises:
            CaseError: There is too little memory for it, or for the last member.
        """
        self._wait()
        mean = self._zeros(self._shape)
        if not self._added:
            mean[Label.BACKGROUND] = 1.0
            return mean
        if len(self._added) < self._members:
            self._sum *= np.float32(self._total_weight / sum(self._added))
        mean[(slice(None), *self._held)] = self._sum
        return mean

    def _wait(self) -> None:
        if self._last is not None:
            self._last.result()
            self._last = None

    def _zeros(self, shape_zyx: Sequence[int]) -> Float:
        reliefs = Reliefs("sum of the members", on_gpu=[], on_host=[self._background.make_room])
        return reliefs.run(lambda: np.zeros((len(Label), *shape_zyx), dtype=np.float32), what="probabilities")
