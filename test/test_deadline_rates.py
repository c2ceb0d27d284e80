"""What is believed of how long networks take."""

import pytest

from operation.deadline_rates import OPENING_S, Rates
from operation.machine_speed import MachineSpeed


@pytest.mark.parametrize(
    ("openings_s", "believed_s"),
    [
        ([4.0], 1.25 * 4.0),
        ([4.0, 60.0], 1.25 * 60.0),  # of two, the longer one
        ([60.0, 4.0, 3.0], 1.25 * 4.0),  # one slow one is forgotten
        ([60.0, 60.0, 60.0, 2.0, 3.0, 4.0], 1.25 * 4.0),  # the last five
        ([2.0, 2.0, 2.0, 30.0, 31.0, 32.0], 1.25 * 30.0),  # and it becomes slower
    ],
)
def test_opening_takes_rather_more_than_it_took_lately(openings_s: list[float], believed_s: float) -> None:
    rates = Rates(MachineSpeed(1e11, slowness=3.0))
    assert rates.opening_s == 3.0 * OPENING_S
    for seconds in openings_s:
        rates.opened(seconds)
    assert rates.opening_s == pytest.approx(believed_s)
