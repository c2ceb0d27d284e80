"""Memory that runs out in work beside the networks, or while a network is opened or watched."""

from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from petct.decisions import decisions, forget_decisions
from petct.errors import CaseError
from petct.manifest import Backend, Mode
from segmentation import member_run, opened_folds
from segmentation.beside_networks import AtOnce, Background, BesideWork, OneThread, one_ahead
from segmentation.member_run import WatchedNetwork
from segmentation.memory_use import MemoryUse
from segmentation.opened_folds import OpenedFolds
from segmentation.running import Running
from segmentation.short_memory import Relief

RESTED = "nothing is done beside the networks any more"
ALONE = "it is done again alone"
CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def no_decisions() -> Iterator[None]:
    forget_decisions()
    yield
    forget_decisions()


def chosen() -> list[str]:
    return [decision.chosen for decision in decisions()]


class Pieces:
    """Pieces of work, some of which find no memory at first; `made` has their names in the order of their tries."""

    def __init__(self, *names: str, fail: str, times: int = 1) -> None:
        self.made: list[str] = []
        self._names, self._fail, self._times = names, fail, times

    def __iter__(self) -> Iterator[Callable[[], str]]:
        for name in self._names:
            yield lambda name=name: self._make(name)  # type: ignore[misc]

    def _make(self, name: str) -> str:
        self.made.append(name)
        if name in self._fail and self.made.count(name) <= self._times:
            raise MemoryError(name)
        return name


def test_two_pieces_that_found_no_memory_are_both_made_again_alone() -> None:
    pieces = Pieces("a", "b", "c", "d", fail="bc")
    with OneThread() as background:
        assert list(one_ahead(pieces, background=background)) == ["a", "b", "c", "d"]
    assert pieces.made == ["a", "b", "c", "b", "c", "d"]
    assert chosen() == [RESTED, ALONE]


def test_a_piece_that_failed_is_made_again_when_the_network_has_taken_the_room_already() -> None:
    pieces = Pieces("a", "b", "c", fail="b")
    with OneThread() as background:
        results = one_ahead(pieces, background=background)
        assert next(results) == "a"
        assert background.make_room() is not None
        assert list(results) == ["b", "c"]
    assert pieces.made == ["a", "b", "b", "c"]
    assert chosen() == [ALONE]


@pytest.mark.parametrize("make", [OneThread, AtOnce])
def test_what_fits_not_even_alone_is_refused(make: Callable[[], Background]) -> None:
    pieces = Pieces("a", "b", fail="b", times=2)
    results = one_ahead(pieces, background=make())
    assert next(results) == "a"
    with pytest.raises(CaseError, match="^beside the networks: what the networks see: must fit in memory, got "):
        next(results)
    assert pieces.made == ["a", "b", "b"]


def test_work_that_is_put_away_goes_on_from_where_it_failed() -> None:
    rows: list[int] = []

    def put_away() -> str:
        while len(rows) < 5:
            if len(rows) == 3 and not background.is_at_rest:
                raise MemoryError
            rows.append(len(rows))
        return "done"

    with OneThread() as background:
        assert BesideWork(put_away, background=background, what="probabilities").result() == "done"
    assert rows == [0, 1, 2, 3, 4]
    assert decisions()[0].about == "beside the networks memory"
    assert chosen() == [RESTED]


def test_other_errors_of_work_beside_come_through_once() -> None:
    tries: list[int] = []

    def fail() -> None:
        tries.append(1)
        raise KeyError("lost")

    with OneThread() as background, pytest.raises(KeyError, match="lost"):
        BesideWork(fail, background=background, what="x").result()
    assert len(tries) == 1


class Opening:
    """Stands in for opening folds: says with what it was asked, and fails as it is told."""

    def __init__(self, *errors: Exception | None) -> None:
        self.asked: list[tuple[int, str, int | None]] = []
        self._errors = list(errors)

    def __call__(self, model: Any, *, device: torch.device, windows_at_once: int | None, **_: object) -> Iterator[Any]:
        for fold in model.member.folds:
            self.asked.append((fold, device.type, windows_at_once))
            error = self._errors.pop(0) if self._errors else None
            if error is not None:
                raise error
            yield fold, f"network of fold {fold}"


def opened(monkeypatch: pytest.MonkeyPatch, opening: Opening, *, backend: Backend, device: torch.device) -> OpenedFolds:
    monkeypatch.setattr(opened_folds, "open_folds", opening)
    monkeypatch.setattr(opened_folds, "replace", lambda one, **changes: SimpleNamespace(**(vars(one) | changes)))
    model: Any = SimpleNamespace(where="member x", member=SimpleNamespace(folds=(0, 1, 2)))
    running = Running(Mode.EXACT, backend, mirroring=True, tile_step=0.5, device=device, memory=MemoryUse.ample())
    return OpenedFolds(model, folds=(0, 1, 2), running=running)


def test_a_network_that_a_full_gpu_has_no_room_for_runs_on_the_cpu_and_so_do_those_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opening = Opening(None, torch.cuda.OutOfMemoryError("CUDA out of memory"))
    folds = opened(monkeypatch, opening, backend=Backend.TORCH, device=CUDA)
    assert [folds.open_next() for _ in range(3)] == [f"network of fold {fold}" for fold in range(3)]
    assert opening.asked == [(0, "cuda", None), (1, "cuda", None), (1, "cpu", None), (2, "cpu", None)]
    assert folds.device.type == "cpu"
    assert [(decision.about, decision.chosen, decision.is_loss) for decision in decisions()] == [
        ("member x fold 1 memory", "the network runs on the CPU", True)
    ]


def test_a_network_that_a_full_host_has_no_room_for_is_compiled_for_one_window(monkeypatch: pytest.MonkeyPatch) -> None:
    opening = Opening(MemoryError())
    folds = opened(monkeypatch, opening, backend=Backend.OPENVINO, device=torch.device("cpu"))
    assert folds.open_next() == "network of fold 0"
    assert opening.asked == [(0, "cpu", None), (0, "cpu", 1)]
    refused = opened(monkeypatch, Opening(MemoryError(), MemoryError()), backend=Backend.OPENVINO, device=CUDA)
    with pytest.raises(CaseError, match="^member x fold 0: opening the network: must fit in memory, got "):
        refused.open_next()


class Event:
    """Stands in for CUDA's."""

    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        pass


def test_a_call_without_memory_does_not_undo_what_is_known_to_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member_run.torch.cuda, "Event", Event)
    told: list[int] = []
    fails = iter([False, False, False, True, True, False, False])

    class Network:
        at_once = 2

        def __call__(self, windows: Sequence[torch.Tensor]) -> list[torch.Tensor]:
            if next(fails):
                raise torch.cuda.OutOfMemoryError
            return list(windows)

        def go_one_by_one(self) -> Relief | None:
            return None

        def leave_gpu(self) -> Relief | None:
            return None

    network = WatchedNetwork(Network(), device=CUDA)
    network.watch(told.append)
    for _ in range(7):
        try:
            network([torch.zeros(1)] * 2)
        except torch.cuda.OutOfMemoryError:
            continue
    # The call before the last has ended; those that failed added nothing, and took nothing away.
    assert told == [0, 0, 2, 4, 4, 4, 6]
    assert network.passes == 10
