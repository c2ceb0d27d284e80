"""When memory runs out in the middle: smaller steps in their order, what is done is kept, and an end that says why."""

import gc
import weakref
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch

from petct.decisions import decisions, forget_decisions
from petct.errors import CaseError
from segmentation import export, sliding_window
from segmentation.beside_networks import AtOnce, OneThread, one_ahead
from segmentation.export import add_probabilities
from segmentation.needed import Needed
from segmentation.plans import Resampling
from segmentation.preprocessing import Placement
from segmentation.resampling import Part
from segmentation.short_memory import Relief, Reliefs
from segmentation.sliding_window import predict_logits
from segmentation.torch_network import TorchNetwork

CPU = torch.device("cpu")
CUDA_FULL = "CUDA out of memory. Tried to allocate 2.00 GiB"
HOST_FULL = "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"


@pytest.fixture(autouse=True)
def no_decisions() -> Iterator[None]:
    forget_decisions()
    yield
    forget_decisions()


class Scarce:
    """Stands in for a network that fits only one window at a time, or only the host; its logits are its input's."""

    def __init__(self, *, fails: Callable[["Scarce", int], Exception | None], at_once: int = 4) -> None:
        self.at_once = at_once
        self.is_on_gpu = True
        self.computed = 0
        self._fails = fails

    def __call__(self, windows: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        error = self._fails(self, len(windows))
        if error is not None:
            raise error
        self.computed += len(windows)
        return [window[:3].clone() for window in windows]

    def go_one_by_one(self) -> Relief | None:
        if self.at_once == 1:
            return None
        self.at_once = 1
        return Relief("one window at a time")

    def leave_gpu(self) -> Relief | None:
        if not self.is_on_gpu:
            return None
        self.is_on_gpu = False
        return Relief("the network runs on the CPU", is_loss=True)


def logits_of(network: Scarce, **options: object) -> torch.Tensor:
    data = torch.randn(4, 21, 17, 30, generator=torch.Generator().manual_seed(8))
    return predict_logits(
        network,
        data,
        window=(8, 9, 16),
        classes=3,
        mirrorings=sliding_window.all_mirrorings((1,)),
        tile_step=0.5,
        device=CPU,
        name="member x fold 0",
        **options,  # type: ignore[arg-type]
    )


PASSES = 5 * 3 * 3 * 2  # (21 - 8) / 4, (17 - 9) / 4.5 and (30 - 16) / 8 steps, rounded up, and one; 2 mirrorings


def chosen() -> list[tuple[str, bool]]:
    return [(decision.chosen, decision.is_loss) for decision in decisions()]


def test_a_full_gpu_is_given_less_step_by_step_and_what_is_done_stays() -> None:
    calls = 0

    def fails(network: Scarce, windows: int) -> Exception | None:
        nonlocal calls
        calls += 1
        if windows > 1 and calls > 3:  # the first three calls of four windows pass
            return torch.cuda.OutOfMemoryError(CUDA_FULL)
        return torch.cuda.OutOfMemoryError(CUDA_FULL) if network.is_on_gpu and network.computed == 20 else None

    expected = logits_of(Scarce(fails=lambda *_: None))
    network = Scarce(fails=fails)
    assert torch.equal(logits_of(network), expected)
    assert network.computed == PASSES  # none twice
    assert chosen() == [("one window at a time", False), ("the network runs on the CPU", True)]
    assert decisions()[0].about == "member x fold 0 memory"
    assert "no memory left on the GPU" in decisions()[0].because
    assert CUDA_FULL in decisions()[0].because


def test_a_full_host_rests_what_runs_beside_and_then_goes_one_by_one() -> None:
    rested: list[str] = []

    def make_room() -> Relief | None:
        rested.append("once")
        return Relief("nothing is done beside the networks any more")

    def fails(network: Scarce, windows: int) -> Exception | None:
        return RuntimeError(HOST_FULL) if not rested or windows > 1 else None

    network = Scarce(fails=fails)
    expected = logits_of(Scarce(fails=lambda *_: None))
    assert torch.equal(logits_of(network, make_room=make_room), expected)
    assert rested == ["once"]
    assert [words for words, _ in chosen()] == ["nothing is done beside the networks any more", "one window at a time"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.cuda.OutOfMemoryError(CUDA_FULL), r"^member x fold 0: network: must fit in the GPU's memory, got "),
        (RuntimeError(HOST_FULL), r"^member x fold 0: network: must fit in memory, got [\d.]+ GiB left by \w+"),
        (MemoryError(), r"^member x fold 0: network: must fit in memory, got "),
    ],
)
def test_what_never_fits_is_refused_in_one_line(error: Exception, message: str) -> None:
    with pytest.raises(CaseError, match=message) as refusal:
        logits_of(Scarce(fails=lambda *_: error))
    assert "\n" not in str(refusal.value)


def test_other_errors_go_through_at_once() -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        logits_of(Scarce(fails=lambda *_: RuntimeError("shapes cannot be multiplied")))
    assert decisions() == ()


def test_what_a_failure_held_is_free_before_the_next_try() -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def work() -> str:
        if held:
            gc.collect()
            return "kept" if held[0]() is not None else "free"
        large = torch.zeros(1 << 20)
        held.append(weakref.ref(large))
        raise RuntimeError(HOST_FULL)

    reliefs = Reliefs("x", on_gpu=[], on_host=[lambda: Relief("less")])
    assert reliefs.run(work, what="y") == "free"


def test_sums_leave_a_gpu_that_has_no_room_even_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def gaussian(*_: object, device: torch.device, **__: object) -> torch.Tensor:
        if device.type == "cuda":
            raise torch.cuda.OutOfMemoryError(CUDA_FULL)
        return torch.ones(4, 5, 6)

    monkeypatch.setattr(sliding_window, "compute_gaussian", gaussian)
    sums = sliding_window._Sums(3, (4, 5, 6), window=(4, 5, 6), device=torch.device("cuda"))
    reliefs = Reliefs("x", on_gpu=[sums.leave_gpu], on_host=[])
    reliefs.run(sums.open, what="sum")
    sums.add((slice(0, 4), slice(0, 5), slice(0, 6)), torch.full((3, 4, 5, 6), 2.0), reliefs=reliefs)
    assert torch.equal(sums.mean(), torch.full((3, 4, 5, 6), 2.0))
    assert chosen() == [("windows are summed in the host's memory", False)]
    assert sums.leave_gpu() is None


def test_a_torch_network_computes_fewer_at_once_and_then_on_the_cpu() -> None:
    module = torch.nn.Conv3d(2, 3, 1).eval()
    network = TorchNetwork(module, device=CPU, name="x")
    assert network.at_once == 1
    assert network.go_one_by_one() is None
    assert network.leave_gpu() is None
    network._device, network.at_once = torch.device("cuda"), 2  # as on a GPU; its weights are on the CPU already
    assert network.go_one_by_one() == Relief("one window at a time")
    relief = network.leave_gpu()
    assert relief is not None
    assert relief.is_loss
    window = torch.randn(2, 4, 5, 6)
    (logits,) = network([window])
    torch.testing.assert_close(logits, module(window[None])[0])


def test_a_piece_without_memory_beside_the_networks_is_made_again_alone() -> None:
    made: list[str] = []

    def piece(name: str, *, fails: bool = False) -> Callable[[], str]:
        def work() -> str:
            made.append(name)
            if fails and made.count(name) == 1:
                raise MemoryError
            return name

        return work

    with OneThread() as background:
        pieces = [piece("a"), piece("b", fails=True), piece("c"), piece("d")]
        assert list(one_ahead(pieces, background=background)) == ["a", "b", "c", "d"]
        assert background.is_at_rest
    assert made == ["a", "b", "c", "b", "d"]
    assert [words for words, _ in chosen()] == ["nothing is done beside the networks any more"]


def test_at_rest_work_is_done_where_it_is_handed_in_and_in_order() -> None:
    done: list[int] = []
    with OneThread() as background:
        background.submit(done.append, 1)
        assert background.make_room() is not None
        assert done == [1]
        background.submit(done.append, 2)
        assert done == [1, 2]
        assert background.make_room() is None
    assert AtOnce().make_room() is None


# The network's axes are y, z, x; rows of y and columns of x are cropped away.
PLACEMENT = Placement(
    transpose=(1, 0, 2),
    shape=(16, 15, 17),
    box=((1, 14), (0, 15), (2, 17)),
    spacing_mm=(2.0, 3.0, 4.0),
    network_spacing_mm=(3.0, 3.0, 5.0),
)


def probabilities(total: np.ndarray, **options: object) -> np.ndarray:
    shape = PLACEMENT.network_shape
    logits = 5.0 * torch.randn((3, *shape), generator=torch.Generator().manual_seed(4))
    add_probabilities(
        total,
        logits,
        placement=PLACEMENT,
        part=Part(shape, (0, 0, 0)),  # type: ignore[arg-type]
        resampling=Resampling("resample_data_or_seg_to_shape", (("order", 1),)),
        weight=0.25,
        **{"needed": None, "device": CPU} | options,  # type: ignore[arg-type]
    )
    return total


@pytest.mark.parametrize(
    "held",
    [
        (slice(3, 11), slice(4, 9), slice(5, 12)),  # inside of the crop
        (slice(0, 15), slice(0, 9), slice(0, 6)),  # beyond two of its faces
        (slice(2, 9), slice(14, 16), slice(3, 17)),  # outside
        (slice(0, 15), slice(0, 16), slice(0, 17)),  # all
        (slice(4, 4), slice(5, 5), slice(6, 6)),  # nothing
    ],
)
def test_a_sum_of_a_part_is_the_part_of_the_sum(held: tuple[slice, ...]) -> None:
    whole = probabilities(np.zeros((3, 15, 16, 17), dtype=np.float32))
    part = np.zeros((3, *(side.stop - side.start for side in held)), dtype=np.float32)
    # A matrix product of fewer voxels may round the other way.
    got = probabilities(part, held=held)
    np.testing.assert_allclose(got, whole[(slice(None), *held)], rtol=0.0, atol=1e-6)
    assert part.size == 0 or got.max() > 0.2


def test_a_sum_of_what_is_needed_is_the_same_bit_by_bit() -> None:
    spots = np.zeros((15, 16, 17), dtype=bool)
    spots[5, 6, 7] = spots[9, 11, 15] = True
    needed = Needed.around(spots, reach=(1, 1, 2))
    held = needed.box()
    assert held == (slice(4, 11), slice(5, 13), slice(5, 17))
    few = probabilities(np.zeros((3, 15, 16, 17), dtype=np.float32), needed=needed)
    some = probabilities(np.zeros((3, 7, 8, 12), dtype=np.float32), needed=needed, held=held)
    # The crop's background is outside of what is needed, too, where it may be anything.
    np.testing.assert_array_equal(some, few[(slice(None), *held)])
    assert some.max() > 0.2


def test_slabs_that_a_full_gpu_added_are_not_added_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    real = export.resample_slabs
    monkeypatch.setitem(real.__globals__["SLAB_VOXELS"], "cpu", 15 * 15 * 2)
    expected = probabilities(np.zeros((3, 15, 16, 17), dtype=np.float32))

    def slabs(logits: torch.Tensor, *, device: torch.device, **options: object) -> Iterator[object]:
        """As on a GPU that is full after the second slab."""
        for number, slab in enumerate(real(logits, device=CPU, **options)):  # type: ignore[arg-type]
            if device.type == "cuda" and number == 2:
                raise torch.cuda.OutOfMemoryError(CUDA_FULL)
            made.append(device.type)
            yield slab

    monkeypatch.setattr(export, "resample_slabs", slabs)
    got = probabilities(np.zeros((3, 15, 16, 17), dtype=np.float32), device=torch.device("cuda"))
    np.testing.assert_array_equal(got, expected)
    assert made[:2] == ["cuda", "cuda"]
    assert set(made[2:]) == {"cpu"}
    assert chosen() == [("probabilities are computed on the CPU", False)]
