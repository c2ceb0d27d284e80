"""A fold's network on PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from segmentation.short_memory import Relief

# Two windows at a time keep a GPU 5 to 8 % busier; more than two gain nothing and take their memory.
WINDOWS_AT_ONCE = {"cpu": 1, "cuda": 2}
_HOST = torch.device("cpu")


class TorchNetwork:
    """Computes windows with PyTorch: float32 on a CPU, nnU-Net's autocast on CUDA.

    Args:
        network: The network, in evaluation mode; it is moved to `device`.
        device: Where it runs.
        name: What it is called.
        windows_at_once: Most windows to compute at once; None for as many as keep the device busy.

    Attributes:
        name: What it is called.
        at_once: How many windows are computed at once.
    """

    def __init__(
        self, network: torch.nn.Module, *, device: torch.device, name: str, windows_at_once: int | None = None
    ) -> None:
        self._network = network.to(device)  # where it was before may be the CPU, if the GPU was too small for it
        self._device = device
        self.name = name
        self.at_once = min(WINDOWS_AT_ONCE[device.type], windows_at_once or WINDOWS_AT_ONCE[device.type])

    @torch.no_grad()
    def __call__(self, windows: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Logits, float32 (class, and three axes) each, of windows (channel, and three axes) of one size."""
        logits: list[torch.Tensor] = []
        with (
            torch.autocast(self._device.type, enabled=self._device.type == "cuda"),
            torch.backends.cudnn.flags(enabled=True, benchmark=True),  # every window has the same size
        ):
            for first in range(0, len(windows), self.at_once):
                batch = torch.stack([window.to(self._device) for window in windows[first : first + self.at_once]])
                logits.extend(self._network(batch).float())
        return logits

    def go_one_by_one(self) -> Relief | None:
        """Compute one window at a time from now on."""
        if self.at_once == 1:
            return None
        self.at_once = 1
        return Relief("one window at a time")

    def leave_gpu(self) -> Relief | None:
        """Compute on the CPU from now on, with float32."""
        if self._device.type == "cpu":
            return None
        self._network = self._network.to(_HOST)
        self._device = _HOST
        return Relief("the network runs on the CPU", is_loss=True)
