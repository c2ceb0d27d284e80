"""What a run may do with memory: what the planner decides before it, and what running out of it takes away."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MemoryUse:
    """What a run holds at the same time. None of it changes what the networks say, but where they run.

    Attributes:
        is_overlapped: Whether the next members' channels are made, and the last one's probabilities put away, while a
            network computes. Otherwise nothing is held that is not used at once.
        windows_at_once: Most windows that a network is handed, and computes, at a time; None for as many as keep it
            busy.
        is_group_held: Whether all members that see the same channels have theirs made together. Otherwise each
            member's are made when its turn comes, and dropped after it.
        are_channels_remembered: Whether PET and CT as networks see them are kept for other members that see them alike.
            Otherwise they are made again.
        is_sum_on_host: Whether the logits of the windows are summed in the host's memory, not on the GPU.
        is_network_on_host: Whether the networks run on the CPU though there is a GPU, which changes the last digits.
    """

    is_overlapped: bool
    windows_at_once: int | None
    is_group_held: bool
    are_channels_remembered: bool
    is_sum_on_host: bool
    is_network_on_host: bool

    def __post_init__(self) -> None:
        if self.windows_at_once is not None and self.windows_at_once < 1:
            raise ValueError(f"windows_at_once must be None or >= 1, got {self.windows_at_once}")

    @classmethod
    def ample(cls) -> MemoryUse:
        """What is fastest, where memory is no matter: nothing is given up."""
        return cls(
            is_overlapped=True,
            windows_at_once=None,
            is_group_held=True,
            are_channels_remembered=True,
            is_sum_on_host=False,
            is_network_on_host=False,
        )
