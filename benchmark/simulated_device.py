"""A device that computes nothing and only takes time, by a clock of its own."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

from operation.machine_speed import LEAST_SLOWNESS, MOST_SLOWNESS, REFERENCE_FLOPS_PER_S

MOST_SLOWER = 6.0


@dataclass(frozen=True)
class Behaviour:
    """How fast a device is, and when.

    Attributes:
        flops_per_s: Operations per second when the case begins.
        halves_after_s: Seconds after which a machine that becomes slower and slower has half the speed, a third after
            twice as many, a sixth at the least; infinite for one that stays as it is.
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
        begun_s: When the last piece of work was begun, which nothing interrupts.
    """

    behaviour: Behaviour
    random: random.Random
    now_s: float = 0.0
    begun_s: float = field(default=0.0, init=False)

    def clock(self) -> float:
        """The time."""
        return self.now_s

    def compute(self, flops: float) -> None:
        """Let the time pass that so many operations take."""
        self.begun_s = self.now_s
        noise = math.exp(self.random.gauss(0.0, self.behaviour.noise)) if self.behaviour.noise else 1.0
        self.now_s = self._ends(self.now_s, flops * noise)

    def work(self, reference_s: float) -> None:
        """Let the time pass that other work takes which lasts so long on the reference machine's host."""
        self.compute(self.other_flops(reference_s))

    def other_flops(self, reference_s: float) -> float:
        """How many operations could be done in the time of such work."""
        return reference_s * slowness_of(self.behaviour.flops_per_s) * self.behaviour.flops_per_s

    def flops_between(self, start_s: float, end_s: float) -> float:
        """How many operations it does in a time."""
        if end_s <= start_s:
            return 0.0
        low, high = max(start_s, self.behaviour.stall_at_s), min(end_s, self._stall_end_s)
        # While it stands still it becomes slower, too.
        stalled = self._done(high) - self._done(low) if high > low else 0.0
        return self._done(end_s) - self._done(start_s) - stalled

    def would_end_s(self, start_s: float, reference_s: float) -> float:
        """When such work ends if it begins at a time and the device does not stand still meanwhile."""
        end_s = self._ends(start_s, self.other_flops(reference_s))
        return end_s - max(0.0, min(end_s, self._stall_end_s) - max(start_s, self.behaviour.stall_at_s))

    @property
    def _stall_end_s(self) -> float:
        return self.behaviour.stall_at_s + self.behaviour.stall_s

    def _ends(self, start_s: float, flops: float) -> float:
        """When so many operations are done."""
        if self.behaviour.stall_at_s <= start_s < self._stall_end_s:
            start_s = self._stall_end_s
        end_s = self._when(self._done(start_s) + flops)
        if start_s <= self.behaviour.stall_at_s < end_s:
            before = self._done(self.behaviour.stall_at_s) - self._done(start_s)
            end_s = self._when(self._done(self._stall_end_s) + flops - before)
        return end_s

    def _done(self, time_s: float) -> float:
        """Operations from the beginning to a time, if it never stood still."""
        how = self.behaviour
        if how.halves_after_s == math.inf:
            return how.flops_per_s * time_s
        slowing_s = min(time_s, (MOST_SLOWER - 1) * how.halves_after_s)
        slowing = how.halves_after_s * math.log(1 + slowing_s / how.halves_after_s)
        return how.flops_per_s * (slowing + (time_s - slowing_s) / MOST_SLOWER)

    def _when(self, flops: float) -> float:
        """The time when so many are done."""
        how, speed = self.behaviour, self.behaviour.flops_per_s
        if how.halves_after_s == math.inf:
            return flops / speed
        last_s = (MOST_SLOWER - 1) * how.halves_after_s
        if flops > self._done(last_s):
            return last_s + (flops - self._done(last_s)) * MOST_SLOWER / speed
        return how.halves_after_s * (math.exp(flops / (speed * how.halves_after_s)) - 1)
