import time

import pytest
import torch

from operation import machine_speed
from operation.machine_speed import REFERENCE_FLOPS_PER_S, MachineSpeed, measure_speed
from petct.manifest import Backend, Mode
from segmentation.openvino_network import ComputePrecision
from segmentation.running import Running

CPU = torch.device("cpu")


def test_a_machine_is_measured_in_no_time() -> None:
    measure_speed(CPU)  # what is done once in a process
    started_s = time.process_time()
    speed = measure_speed(CPU)
    # Two convolutions of 1.7 GFLOP at the least; five at the most.
    assert time.process_time() - started_s < 5 * 2 * 1.7e9 / speed.torch_flops_per_s + 0.5
    assert 1e8 < speed.torch_flops_per_s < 1e14
    assert 0.5 <= speed.slowness <= 10.0


@pytest.mark.parametrize(("seconds", "slowness"), [(0.001, 0.5), (0.0302, 2.0), (3.0, 10.0)])
def test_it_is_the_convolutions_over_their_time(
    seconds: float, slowness: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = iter(seconds * n for n in range(1000))
    monkeypatch.setattr(machine_speed.time, "perf_counter", lambda: next(passed))
    speed = measure_speed(CPU)
    flops = 2.0 * 32 * 32 * 27 * 24 * 32 * 40
    assert speed.torch_flops_per_s == pytest.approx(0.8 * flops / seconds)
    assert speed.slowness == pytest.approx(slowness, rel=0.03)
    if slowness == 2.0:
        assert flops / seconds == pytest.approx(REFERENCE_FLOPS_PER_S / 2.0, rel=0.03)


def test_openvino_is_as_much_faster_as_it_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    speed = MachineSpeed(1e11, slowness=1.0)
    torchs, openvinos = (Running(Mode.EXACT, backend, True, 0.5, CPU) for backend in (Backend.TORCH, Backend.OPENVINO))
    assert speed.flops_per_s(torchs, mode=Mode.FAST) == 1e11
    for precision, faster in ((ComputePrecision.FLOAT32, 1.7), (ComputePrecision.BFLOAT16, 3.6)):
        monkeypatch.setattr(machine_speed, "choose_precision", lambda *_, precision=precision, **__: precision)
        assert speed.flops_per_s(openvinos, mode=Mode.BALANCED) == pytest.approx(faster * 1e11)
