"""A fold's network on PyTorch."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

log = logging.getLogger(__name__)

# Two flips of a window at a time keep a GPU 5 to 8 % busier; more than two gain nothing and take their memory.
FLIPS_AT_ONCE = {"cpu": 1, "cuda": 2}


class TorchNetwork:
    """Computes windows with PyTorch: float32 on a CPU, nnU-Net's autocast on CUDA.

    Args:
        network: The network, on `device`, in evaluation mode.
        device: Where it runs.
        name: What the log calls it.
    """

    def __init__(self, network: torch.nn.Module, *, device: torch.device, name: str) -> None:
        self._network = network
        self._device = device
        self._name = name
        self._at_once = FLIPS_AT_ONCE[device.type]

    @torch.no_grad()
    def __call__(self, windows: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Logits, float32 (class, and three axes) each, of windows (channel, and three axes) of one size."""
        try:
            return self._run(windows)
        except torch.cuda.OutOfMemoryError:
            if self._at_once == 1:
                raise
            # The windows of one call are few, so doing them again costs less than keeping their parts.
            log.warning(
                "%s: the GPU has no memory for %d windows at once, going on one by one", self._name, self._at_once
            )
            self._at_once = 1
            torch.cuda.empty_cache()
            return self._run(windows)

    def _run(self, windows: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        logits: list[torch.Tensor] = []
        with (
            torch.autocast(self._device.type, enabled=self._device.type == "cuda"),
            torch.backends.cudnn.flags(enabled=True, benchmark=True),  # every window has the same size
        ):
            for first in range(0, len(windows), self._at_once):
                batch = torch.stack([window.to(self._device) for window in windows[first : first + self._at_once]])
                logits.extend(self._network(batch).float())
        return logits
