from collections.abc import Sequence

import numpy as np
import pytest
import torch

from petct.labels import Label
from segmentation.fold_windows import ByUptake, count_all_windows, count_windows, predict_by_uptake
from segmentation.sliding_window import all_mirrorings, predict_logits

CPU = torch.device("cpu")
WINDOW = (8, 9, 16)


class Pointing:
    """Stands in for a network: it says what a window's PET is, and keeps the PETs that it saw."""

    at_once = 2

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def __call__(self, windows: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        self.seen += [window[0] for window in windows]
        return [torch.stack([-window[0], window[0], 0.5 * window[0]]) for window in windows]

    def go_one_by_one(self) -> None:
        return None

    def leave_gpu(self) -> None:
        return None


def scan(*shape: int) -> torch.Tensor:
    return torch.rand(2, *shape, generator=torch.Generator().manual_seed(4)) + 0.5


def run(data: torch.Tensor, asked: Sequence[int], *, network: Pointing | None = None, **changes: object) -> ByUptake:
    """As many windows with as many mirrorings as `asked` says."""
    options = {"mirrorings": all_mirrorings((1, 2)), "tile_step": 0.5, "is_needed": None} | changes
    return predict_by_uptake(
        network or Pointing(),
        data,
        window=WINDOW,
        device=CPU,
        name="pointing",
        next_mirrorings=lambda done: asked[done] if done < len(asked) else 0,
        **options,
    )


@pytest.mark.parametrize("shape", [(21, 17, 30), (6, 17, 30), (6, 8, 13)])
def test_all_windows_say_what_they_say_in_order(shape: tuple[int, int, int]) -> None:
    data = scan(*shape)
    found = run(data, [4] * 100)
    expected = predict_logits(
        Pointing(),
        data,
        window=WINDOW,
        classes=3,
        mirrorings=all_mirrorings((1, 2)),
        tile_step=0.5,
        device=CPU,
        name="",
    )
    torch.testing.assert_close(found.logits, expected, rtol=0.0, atol=1e-5)
    assert found.is_whole
    assert found.unmirrored == 0
    assert found.mirrored == count_all_windows(shape, window=WINDOW, tile_step=0.5)


def test_the_highest_uptake_comes_first_and_the_rest_is_background() -> None:
    data = scan(16, 18, 32)  # two windows along each axis, side by side, with a step of one
    hottest = [(3, 12, 30), (12, 4, 2), (10, 10, 20)]
    for value, (z, y, x) in zip((90.0, 70.0, 80.0), hottest, strict=True):
        data[0, z, y, x] = value
    network = Pointing()
    found = run(data, [4, 1], network=network, tile_step=1.0)
    assert (found.mirrored, found.unmirrored, found.is_whole) == (1, 1, False)
    assert [float(window.max()) for window in network.seen] == [90.0] * 4 + [80.0]
    seen = np.zeros((16, 18, 32), dtype=bool)
    seen[0:8, 9:18, 16:32] = True
    seen[8:16, 9:18, 16:32] = True
    logits = found.logits.numpy()
    np.testing.assert_allclose(logits[1][seen], data[0].numpy()[seen], rtol=1e-5)
    probabilities = torch.softmax(found.logits, dim=0).numpy()
    assert (probabilities[Label.BACKGROUND][~seen] == 1.0).all()
    assert (probabilities[Label.TTB][seen] > 0.4).all()


def test_without_time_all_is_background() -> None:
    found = run(scan(16, 18, 32), [])
    assert (found.mirrored, found.unmirrored, found.is_whole) == (0, 0, False)
    assert (torch.softmax(found.logits, dim=0)[Label.BACKGROUND] == 1.0).all()


def test_windows_that_are_not_needed_are_not_run() -> None:
    def is_needed(tile: Sequence[slice]) -> bool:
        return tile[0].start == 0

    data = scan(16, 18, 32)
    found = run(data, [4] * 8, tile_step=1.0, is_needed=is_needed)
    assert (found.mirrored, found.is_whole) == (4, True)
    assert (torch.softmax(found.logits, dim=0)[Label.BACKGROUND, 8:] == 1.0).all()
    region = (slice(5, 21), slice(0, 18), slice(3, 35))
    assert count_windows(region, window=WINDOW, tile_step=1.0, is_needed=is_needed) == 4
    assert count_windows(region, window=WINDOW, tile_step=1.0, is_needed=None) == 8
