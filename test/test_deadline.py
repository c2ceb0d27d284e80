"""The deadline's decisions on simulated devices, whose clock only their work moves."""

import logging
import math
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.__main__ import main
from benchmark.deadline_simulation import Outcome, random_case, simulate, summarise
from benchmark.simulated_device import Behaviour, SimulatedDevice
from benchmark.simulated_scan import SimulatedMember, SimulatedScan
from operation.deadline import Deadline
from operation.machine_speed import MachineSpeed
from petct.channels import OrganEncoding
from petct.decisions import decisions, forget_decisions
from petct.manifest import Architecture, Mode

LIMIT_S = 1500.0
WINDOWS = {Mode.EXACT: 27, Mode.BALANCED: 8, Mode.FAST: 5}
# One pass of a plain network of the challenge's size takes 1.10 TFLOP, of a ResEnc-M 1.67; times windows, mirrorings
# and folds: the networks of `scans_on` take 2 x (27 x 8 x (2 x 1.10 + 1.67)) = 1670 TFLOP in an exact run.
ALL_FLOPS = {Mode.EXACT: 1.67e15, Mode.BALANCED: 1.67e15 * 8 / 27}


@pytest.fixture(autouse=True)
def fresh(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="petct.decisions")
    forget_decisions()


def scans_on(device: SimulatedDevice, *, mode: Mode = Mode.EXACT) -> list[SimulatedScan]:
    members = [
        SimulatedMember(Architecture.PLAIN, OrganEncoding.NONE, folds=2, weight=1.0, windows=WINDOWS),
        SimulatedMember(Architecture.RESENC_M, OrganEncoding.BINARY, folds=1, weight=1.0, windows=WINDOWS),
    ]
    return [
        SimulatedScan(name, members=members, voxels=12 * 10**6, mode=mode, device=device) for name in ("PSMA", "FDG")
    ]


def run(behaviour: Behaviour, *, mode: Mode = Mode.EXACT, measured_error: float = 1.0, seed: int = 0) -> Outcome:
    device = SimulatedDevice(behaviour=behaviour, random=Random(seed))
    return simulate(scans_on(device, mode=mode), device=device, limit_s=LIMIT_S, measured_error=measured_error)


def losses() -> list[str]:
    return [f"{decision.about}: {decision.chosen}" for decision in decisions() if decision.is_loss]


@pytest.mark.parametrize("measured_error", [0.2, 1.0, 5.0])
@pytest.mark.parametrize("mode", [Mode.EXACT, Mode.BALANCED])
def test_nothing_is_given_up_when_all_fits(mode: Mode, measured_error: float) -> None:
    # Four fifths of the time, or all but nothing.
    for part in (0.8, 0.01):
        outcome = run(Behaviour(ALL_FLOPS[mode] / (part * LIMIT_S)), mode=mode, measured_error=measured_error)
        assert outcome.value == pytest.approx(1.0)
        assert losses() == []
        assert outcome.executed.mode is mode
        assert len(outcome.executed.fold_runs) == 6
        assert not any(fold.is_by_uptake for fold in outcome.executed.fold_runs)
        assert outcome.ended_s < LIMIT_S


def test_a_fast_machine_is_not_asked_twice() -> None:
    device = SimulatedDevice(behaviour=Behaviour(1e14), random=Random(0))
    scans = scans_on(device)
    pace = Deadline(LIMIT_S, started_s=0.0, clock=device.clock, measure=lambda *_: MachineSpeed(1e14, slowness=0.5))
    pace.begin(scans)
    assert device.now_s == 0.0  # neither were windows counted, nor was a network timed
    assert not any(scan.has_looked for scan in scans)


def test_each_scans_first_fold_comes_before_all_others() -> None:
    outcome = run(Behaviour(ALL_FLOPS[Mode.EXACT] / 1000.0))
    assert [(fold.tracer, fold.member, fold.fold) for fold in outcome.executed.fold_runs] == [
        ("PSMA", "plain_0", 0),
        ("FDG", "plain_0", 0),
        ("PSMA", "plain_0", 1),
        ("PSMA", "resenc_m_1", 0),
        ("FDG", "plain_0", 1),
        ("FDG", "resenc_m_1", 0),
    ]


def test_what_does_not_fit_is_given_up_and_said() -> None:
    # Balanced's windows take 8/27 of exact's: with a tenth of the speed that exact needs, an eighth of the mirrorings
    # has to do, or a quarter.
    outcome = run(Behaviour(0.1 * ALL_FLOPS[Mode.EXACT] / LIMIT_S))
    assert outcome.executed.mode is Mode.BALANCED
    assert {fold.mirrorings for fold in outcome.executed.fold_runs} <= {2, 4}
    assert len(outcome.executed.fold_runs) == 6
    assert LIMIT_S * 0.6 < outcome.ended_s < LIMIT_S
    said = losses()
    assert said[0] == "mode: balanced instead of exact"
    assert any(one.about == "time plan" and one.chosen.startswith("6 folds with ") for one in decisions())
    assert any(line.endswith(" of 8 mirrorings") for line in said)


@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour(0.3 * ALL_FLOPS[Mode.EXACT] / LIMIT_S, halves_after_s=0.3 * LIMIT_S),
        Behaviour(0.03 * ALL_FLOPS[Mode.EXACT] / LIMIT_S, halves_after_s=0.5 * LIMIT_S, noise=0.1),
        Behaviour(0.3 * ALL_FLOPS[Mode.EXACT] / LIMIT_S, stall_at_s=500.0, stall_s=400.0),
        Behaviour(0.02 * ALL_FLOPS[Mode.EXACT] / LIMIT_S, stall_at_s=20.0, stall_s=300.0),
        Behaviour(0.005 * ALL_FLOPS[Mode.EXACT] / LIMIT_S, noise=0.05),
    ],
    ids=["slower", "slow and slower", "stall", "stall of the pilot", "very slow"],
)
@pytest.mark.parametrize("measured_error", [0.2, 1.0, 5.0])
def test_a_device_that_is_not_what_was_measured(behaviour: Behaviour, measured_error: float) -> None:
    outcome = run(behaviour, measured_error=measured_error)
    assert outcome.ended_s <= LIMIT_S
    for tracer in ("PSMA", "FDG"):
        assert sum(fold.windows + fold.windows_unmirrored for fold in outcome.executed.of(tracer)) > 0
    assert outcome.value >= 0.45 * outcome.best
    assert losses()


def test_time_for_a_few_windows_only() -> None:
    # Five windows of two scans would take nine times as long as there is: each scan gets what it can.
    outcome = run(Behaviour(2 * 5 * 1.1e12 / (2.0 * LIMIT_S)), mode=Mode.FAST)
    for tracer in ("PSMA", "FDG"):
        (fold,) = outcome.executed.of(tracer)
        assert fold.is_by_uptake
        assert not fold.is_whole
        assert 1 <= fold.windows + fold.windows_unmirrored < 5
    assert outcome.ended_s < LIMIT_S
    assert any("those with the highest uptake" in line for line in losses())


def test_no_time_at_all() -> None:
    device = SimulatedDevice(behaviour=Behaviour(1e12), random=Random(0), now_s=LIMIT_S - 1.0)
    outcome = simulate(scans_on(device), device=device, limit_s=LIMIT_S, measured_error=1.0)
    assert outcome.executed.fold_runs == ()
    assert outcome.ended_s < LIMIT_S + 5.0  # what comes after the networks takes no more
    assert any("the mask is empty" in line for line in losses())


@given(st.integers(0, 10**9))
@settings(max_examples=250, deadline=None)
def test_whatever_the_case(seed: int) -> None:
    forget_decisions()
    outcome = random_case(Random(seed))
    assert outcome.ended_s <= outcome.limit_s + outcome.longest_s
    if outcome.has_time and outcome.is_steady:
        assert outcome.ended_s <= outcome.limit_s
        assert outcome.empty_masks == 0
    if outcome.fits_easily:
        assert outcome.value == pytest.approx(1.0)
    if outcome.value < 1.0 - 1e-9:
        assert losses()
    runs = [(fold.tracer, fold.member, fold.fold) for fold in outcome.executed.fold_runs]
    assert len(set(runs)) == len(runs)


def test_most_of_what_fits_is_kept() -> None:
    found = summarise([random_case(Random(seed)) for seed in range(200)])
    assert found.kept > 0.9
    assert found.kept_tenth > 0.75
    assert found.late == 0


def test_finding_the_organs_leaves_time_for_the_networks() -> None:
    # A plain network's five windows of fast take 1.1e12 x 5 / 1e11 = 55 s of each scan.
    device = SimulatedDevice(behaviour=Behaviour(1e11), random=Random(0), now_s=900.0)
    pace = Deadline(LIMIT_S, started_s=0.0, clock=device.clock, measure=lambda *_: MachineSpeed(1e11, slowness=1.0))
    scans = scans_on(device)
    assert pace.organ_timeout_s(60.0, scans=scans, cts=2) == 60.0
    allowed_s = pace.organ_timeout_s(600.0, scans=scans, cts=2)
    # Before they are counted, windows are those of the whole scan: 27 x 11 s for each of two scans, more than half.
    assert 0.45 * 600.0 / 2 < allowed_s < 0.5 * 600.0 / 2
    assert pace.organ_timeout_s(600.0, scans=scans, cts=1) == pytest.approx(2 * allowed_s)
    device.now_s = LIMIT_S + 1.0
    assert pace.organ_timeout_s(600.0, scans=scans, cts=1) == 1.0


def test_what_was_run_is_known_at_any_time() -> None:
    device = SimulatedDevice(behaviour=Behaviour(1e13), random=Random(0))
    pace = Deadline(LIMIT_S, started_s=0.0, clock=device.clock, measure=lambda *_: MachineSpeed(1e13, slowness=1.0))
    assert pace.executed.fold_runs == ()
    scans = scans_on(device)
    with pytest.raises(ValueError, match="begin must be called first"):
        pace.allow(scans[0].folds()[0].task)
    pace.begin(scans)
    scans[0].run(scans[0].folds()[:2], pace=pace, is_ready=False)
    assert [fold.fold for fold in pace.executed.fold_runs] == [0, 1]


def test_the_simulated_clock() -> None:
    device = SimulatedDevice(behaviour=Behaviour(10.0, stall_at_s=3.0, stall_s=5.0), random=Random(0))
    device.compute(20.0)
    assert device.now_s == 2.0
    device.compute(20.0)
    assert device.now_s == 2.0 + 2.0 + 5.0
    assert device.longest_s == 7.0
    assert device.flops_between(0.0, 9.0) == pytest.approx(40.0)
    slower = SimulatedDevice(behaviour=Behaviour(10.0, halves_after_s=4.0), random=Random(0))
    slower.compute(slower.flops_between(0.0, 12.0))
    assert slower.now_s == pytest.approx(12.0)
    # At 12 s it has a quarter of the speed: 1 / (1 + 12 / 4).
    assert slower.flops_between(12.0, 12.001) == pytest.approx(10.0 / 4 * 0.001, rel=1e-3)
    assert math.isinf(Behaviour(1.0).stall_at_s)


def test_the_command_prints_what_the_documentation_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deadlines", "--cases", "20", "--seed", "3"]) == 0
    lines = dict(line.rsplit("  ", 1) for line in capsys.readouterr().out.splitlines() if "  " in line)
    assert {name.strip(): value.strip() for name, value in lines.items()}["simulated cases"] == "20"
    assert any(name.startswith("late, beyond one piece") and value.strip() == "0" for name, value in lines.items())
