"""One fold under the clock: how long its windows take, and whether its end can be waited for."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from segmentation.pace import FoldGivenUp

_RECENT = 9  # calls whose median is the rate: neither a stall nor a slow start counts for more than it took
_SURE_CALLS = 3  # as many calls tell a slow device from a stall
_STALL = 3.0  # fewer are believed unless they are so many times off
_NEXT_MARGIN = 1.3  # the next window takes no longer than this times the last ones
_SLOWER = 1.25  # times as slow as planned: whether the plan still holds is asked


class Watch:
    """Watches the passes of one fold.

    Args:
        clock: Seconds.
        passes: How many passes the fold takes.
        pass_s: How long one is expected to take.
        end_s: When the fold has to be at its end, if passes take so many times as long as expected: so does what
            comes after it.
        is_worth: Told how long a pass takes and how many are left: whether the fold is still worth it. Asked when
            passes are slower than expected, less and less often.
        is_open: Whether the network is open already, as when its fold is tried again.

    Attributes:
        opening_s: How long it took until the first window; None if that is not known, or it was open already.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        passes: int,
        pass_s: float,
        end_s: Callable[[float], float],
        is_worth: Callable[[float, int], bool],
        is_open: bool = False,
    ) -> None:
        self._clock = clock
        self._total = passes
        self._expected_s = pass_s
        self._end_s = end_s
        self._is_worth = is_worth
        self._durations: list[float] = []  # of one pass
        self._done = 0
        self._call = 1
        self._asked = 0  # passes of the window that is being run
        self._may_mirror = True
        self._last_s = self._began_s = clock()
        self._is_open = is_open
        self.opening_s: float | None = None
        self._next_look = 2

    @property
    def pass_s(self) -> float | None:
        """How long a pass takes, by the last ones; None when that is not known yet."""
        if not self._durations:
            return None
        known = self._durations[1:] or self._durations
        return median(known[-_RECENT:])

    @property
    def has_begun(self) -> bool:
        """Whether any pass is done."""
        return self._done > 0

    @property
    def is_sure(self) -> bool:
        """Whether what is known of that is more than a stall or a slow start."""
        calls = len(self._durations)
        is_likely = self.pass_s is not None and 1 / _STALL < self.pass_s / self._expected_s < _STALL
        return calls >= _SURE_CALLS or (calls > 1 and is_likely)

    def passed(self, done: int) -> None:
        """Take note before each call of how many passes are done.

        Raises:
            FoldGivenUp: The fold cannot end in time, or time is better spent on another.
        """
        now_s = self._clock()
        self._note(done, now_s=now_s)
        # After memory ran out on a GPU, how many are done is known later: it is never fewer than before.
        left, pass_s = self._total - self._done, self.pass_s
        if left <= 0:
            return
        end_s = self._end_s(self._slower())
        if now_s >= end_s:
            raise FoldGivenUp
        if pass_s is None or (not self.is_sure and now_s + pass_s * self._call <= end_s):
            return
        if now_s + pass_s * left > end_s:
            raise FoldGivenUp
        if len(self._durations) >= self._next_look and pass_s > _SLOWER * self._expected_s:
            self._next_look *= 2
            if not self._is_worth(pass_s, left):
                raise FoldGivenUp

    def next_mirrorings(self, done: int, *, mirrorings: int) -> int:
        """How many mirrorings there is time for when windows are run one by one, as `Allowance.next_mirrorings`.

        Args:
            done: How many windows were run.
            mirrorings: How many are run with each as long as all windows end in time so; then one.
        """
        now_s = self._clock()
        self._note(self._done + self._asked, now_s=now_s)
        next_s = median(self._durations[-3:]) if self._durations else self._expected_s
        end_s, left = self._end_s(self._slower()), self._total // mirrorings - done
        if self._may_mirror:
            is_slow = self.is_sure and next_s > _SLOWER * self._expected_s
            is_in_time = now_s + next_s * mirrorings * left <= end_s
            self._may_mirror = is_in_time and not (is_slow and not self._is_worth(next_s, left * mirrorings))
        self._asked = mirrorings if self._may_mirror else 1
        # The first one is worth a risk that others are not; what is reserved for the end may pay for it.
        margin = _NEXT_MARGIN if done else 1.0
        if now_s + margin * next_s * self._asked > end_s:
            self._asked = 0
        return self._asked

    def finish(self, passes: int) -> None:
        """Take note that all passes are done, so many."""
        self._note(passes, now_s=self._clock())

    def _slower(self) -> float:
        """How many times as long as expected passes take."""
        return 1.0 if self.pass_s is None else self.pass_s / self._expected_s

    def _note(self, done: int, *, now_s: float) -> None:
        if done > self._done:
            self._call = done - self._done
            self._durations.append((now_s - self._last_s) / self._call)
            self._last_s, self._done, self._is_open = now_s, done, True
        elif not self._is_open:
            self.opening_s, self._last_s, self._is_open = now_s - self._began_s, now_s, True
