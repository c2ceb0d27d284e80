import threading
from collections.abc import Callable, Iterator

import pytest

from segmentation.beside_networks import AtOnce, Background, OneThread, one_ahead


@pytest.fixture(params=["at once", "one thread"])
def background(request: pytest.FixtureRequest) -> Iterator[Background]:
    if request.param == "at once":
        yield AtOnce()
    else:
        with OneThread() as thread:
            yield thread


def test_results_come_in_order(background: Background) -> None:
    done: list[int] = []

    def piece(number: int) -> Callable[[], int]:
        def work() -> int:
            done.append(number)
            return number * number

        return work

    assert list(one_ahead((piece(number) for number in range(4)), background=background)) == [0, 1, 4, 9]
    assert done == [0, 1, 2, 3]
    assert list(one_ahead([], background=background)) == []


def test_what_a_piece_raises_is_raised_where_its_result_is_used(background: Background) -> None:
    def fails() -> int:
        raise KeyError("lost")

    results = one_ahead([lambda: 1, fails, lambda: 3], background=background)
    assert next(results) == 1
    with pytest.raises(KeyError, match="lost"):
        next(results)
    with pytest.raises(KeyError, match="lost"):
        background.submit(fails).result()


def test_one_piece_is_made_while_another_is_used_and_no_more() -> None:
    begun = [threading.Event() for _ in range(3)]

    def piece(number: int) -> Callable[[], int]:
        def work() -> int:
            begun[number].set()
            return number

        return work

    with OneThread() as background:
        results = one_ahead(map(piece, range(3)), background=background)
        assert next(results) == 0
        assert begun[1].wait(timeout=30.0)  # nobody has asked for it yet
        background.submit(lambda: None).result()
        assert not begun[2].is_set()
        assert list(results) == [1, 2]


def test_at_once_makes_nothing_ahead() -> None:
    done: list[int] = []
    results = one_ahead([lambda: done.append(1), lambda: done.append(2)], background=AtOnce())
    next(results)
    assert done == [1]


def test_an_interrupt_goes_through_at_once() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        AtOnce().submit(interrupted)
