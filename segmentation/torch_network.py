"""A fold's network on PyTorch."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

log = logging.getLogger(__name__)

# Two windows at a time keep a GPU 5 to 8 % busier; more than two gain nothing and take their memory.
WINDOWS_AT_ONCE = {"cpu": 1, "cuda": 2}


class TorchNetwork:
    """Computes windows with PyTorch: float32 on a CPU, nnU-Net's autocast on CUDA.

    Args:
        network: The network, on `device`, in evaluation mode.
        device: Where it runs.
        name: What the log calls it.

    Attributes:
        at_once: How many windows are computed at once; one, when the GPU has had no memory for more.
    """

    def __init__(self, network: torch.nn.Module, *, device: torch.device, name: str) -> None:
        self._network = network
        self._device = device
        self._name = name
        self.at_once = WINDOWS_AT_ONCE[device.type]

    @torch.no_grad()
    def __call__(self, windows: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Logits, float32 (class, and three axes) each, of windows (channel, and three axes) of one size."""
        try:
            return self._run(windows)
        except torch.cuda.OutOfMemoryError:
            if self.at_once == 1:
                raise
            # The windows of one call are few, so doing them again costs less than keeping their parts.
            log.warning(
                "%s: the GPU has no memory for %d windows at once, going on one by one", self._name, self.at_once
            )
            self.at_once = 1
            torch.cuda.empty_cache()
            return self._run(windows)

    def _run(self, windows: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        logits: list[torch.Tensor] = []
        with (
            torch.autocast(self._device.type, enabled=self._device.type == "cuda"),
            torch.backends.cudnn.flags(enabled=True, benchmark=True),  # every window has the same size
        ):
            for first in range(0, len(windows), self.at_once):
                batch = torch.stack([window.to(self._device) for window in windows[first : first + self.at_once]])
                logits.extend(self._network(batch).float())
        return logits
