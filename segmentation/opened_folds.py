"""A member's networks, opened fold after fold; where there is no room for one, on the CPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from petct.manifest import Backend
from segmentation.networks import open_folds
from segmentation.packed_model import PackedModel
from segmentation.running import Running
from segmentation.short_memory import Relief, Reliefs, Remedy
from segmentation.sliding_window import Network

_HOST = torch.device("cpu")


class OpenedFolds:
    """A member's networks, one at a time: whoever takes one lets go of it before the next is opened.

    Args:
        model: The member's model.
        folds: Which of its folds, in their order.
        running: How networks are run.
        make_room: Gives back what others hold of the host's memory.

    Attributes:
        device: Where the network opened last takes windows: the CPU from when the GPU had no room for one.
    """

    def __init__(
        self, model: PackedModel, *, folds: Sequence[int], running: Running, make_room: Remedy | None = None
    ) -> None:
        self.device = running.device
        self._model = model
        self._waiting = list(folds)
        self._running = running
        self._windows_at_once = running.memory.windows_at_once
        self._make_room: list[Remedy] = [] if make_room is None else [make_room]
        self._opened: Iterator[tuple[int, Network]] | None = None

    def open_next(self) -> Network:
        """The next fold's network.

        Raises:
            CaseError: A fold's weights are not those of the network, or there is too little memory.
        """
        reliefs = Reliefs(
            f"{self._model.where} fold {self._waiting[0]}",
            on_gpu=[self._leave_gpu],
            on_host=[*self._make_room, self._go_one_by_one],
        )
        network = reliefs.run(self._next, what="opening the network")
        del self._waiting[0]
        return network

    def _next(self) -> Network:
        if self._opened is None:
            self._opened = open_folds(
                replace(self._model, member=replace(self._model.member, folds=tuple(self._waiting))),
                mode=self._running.mode,
                backend=self._running.backend,
                device=self.device,
                windows_at_once=self._windows_at_once,
            )
        try:
            _, network = next(self._opened)
        except Exception:
            self._opened = None  # a generator that raised has come to its end
            raise
        return network

    def _leave_gpu(self) -> Relief | None:
        if self.device.type == "cpu":
            return None
        self.device = _HOST
        return Relief("the network runs on the CPU", is_loss=True)

    def _go_one_by_one(self) -> Relief | None:
        # PyTorch takes memory for windows when it computes them, OpenVINO when it compiles.
        if self._running.backend is not Backend.OPENVINO or self._windows_at_once == 1:
            return None
        self._windows_at_once = 1
        return Relief("one window at a time")
