"""A device that computes nothing and only takes time, by a clock of its own."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

from operation.machine_speed import LEAST_SLOWNESS, MOST_SLOWNESS, REFERENCE_FLOPS_PER_S


@dataclass(frozen=True)
class Behaviour:
    """How fast a device is, and when.

    Attributes:
        flops_per_s: Operations per second when the case begins.
        halves_after_s: Seconds after which a machine that becomes slower and slower has half the speed, a third after
            twice as many; infinite for one that stays as it is.
        stall_at_s: When it stands still, in seconds after the case began; infinite for never.
        stall_s: For how long.
        noise: Spread of single calls' durations, as a fraction.
    """

    flops_per_s: float
    halves_after_s: float = math.inf
    stall_at_s: float = math.inf
    stall_s: float = 0.0
    noise: float = 0.0

    @property
    def is_steady(self) -> bool:
        """Whether it stays as fast as it is, but for the noise."""
        return self.halves_after_s == math.inf and self.stall_at_s == math.inf


def slowness_of(flops_per_s: float) -> float:
    """How many times longer other work takes than on the reference machine, beside networks of such a speed."""
    return min(max(REFERENCE_FLOPS_PER_S / flops_per_s, LEAST_SLOWNESS), MOST_SLOWNESS)


@dataclass
class SimulatedDevice:
    """A device with its clock.

    Attributes:
        behaviour: How fast it is.
        random: Makes the noise.
        now_s: The clock, in seconds after the case began.
        longest_s: The longest piece of work, which nothing interrupts.
    """

    behaviour: Behaviour
    random: random.Random
    now_s: float = 0.0
    longest_s: float = field(default=0.0, init=False)

    def clock(self) -> float:
        """The time."""
        return self.now_s

    def compute(self, flops: float) -> None:
        """Let the time pass that so many operations take."""
        before_s = self.now_s
        noise = math.exp(self.random.gauss(0.0, self.behaviour.noise)) if self.behaviour.noise else 1.0
        self.now_s = self._ends(self.now_s, flops * noise)
        self.longest_s = max(self.longest_s, self.now_s - before_s)

    def work(self, reference_s: float) -> None:
        """Let the time pass that other work takes which lasts so long on the reference machine's host."""
        self.compute(self.other_flops(reference_s))

    def other_flops(self, reference_s: float) -> float:
        """How many operations could be done in the time of such work."""
        return reference_s * slowness_of(self.behaviour.flops_per_s) * self.behaviour.flops_per_s

    def flops_between(self, start_s: float, end_s: float) -> float:
        """How many operations it does in a time."""
        how, stalled_s = self.behaviour, 0.0
        if end_s <= start_s:
            return 0.0
        if how.stall_at_s < math.inf:
            low, high = max(start_s, how.stall_at_s), min(end_s, how.stall_at_s + how.stall_s)
            stalled_s = max(0.0, high - low)
        if how.halves_after_s == math.inf:
            return how.flops_per_s * (end_s - start_s - stalled_s)
        # What a stall leaves out counts as if it stood at the start: it is the same but for how much slower it became.
        rate = 1.0 / how.halves_after_s
        return how.flops_per_s / rate * math.log((1 + rate * end_s) / (1 + rate * (start_s + stalled_s)))

    def _ends(self, start_s: float, flops: float) -> float:
        how = self.behaviour
        if how.halves_after_s == math.inf:
            end_s = start_s + flops / how.flops_per_s
        else:
            rate = 1.0 / how.halves_after_s
            end_s = ((1 + rate * start_s) * math.exp(flops * rate / how.flops_per_s) - 1) / rate
        if start_s <= how.stall_at_s < end_s:
            end_s += how.stall_s
        return end_s
