"""The deadline's decisions on simulated devices, whose clock only their work moves."""

import logging
import math
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.__main__ import main
from benchmark.deadline_simulation import Outcome, random_case, simulate, summarise
from benchmark.simulated_device import Behaviour, SimulatedDevice, slowness_of
from benchmark.simulated_scan import SimulatedMember, SimulatedScan
from operation import deadline_books
from operation.deadline import Deadline
from operation.deadline_books import Books
from operation.deadline_pilot import first_plan
from operation.deadline_rates import Rates
from operation.machine_speed import MachineSpeed
from petct.channels import OrganEncoding
from petct.decisions import decisions, forget_decisions
from petct.manifest import Architecture, Mode, OrganSettings, OrganTask
from segmentation.pace import FoldWork, WindowTimes
from segmentation.totalsegmentator import HurriedOrganSettings

LIMIT_S = 1500.0
WINDOWS = {Mode.EXACT: 27, Mode.BALANCED: 8, Mode.FAST: 5}
# One pass of a plain network of the challenge's size takes 1.10 TFLOP, of a ResEnc-M 1.67; times windows, mirrorings
# and folds: the networks of `scans_on` take 2 x (27 x 8 x (2 x 1.10 + 1.67)) = 1670 TFLOP in an exact run.
ALL_FLOPS = {Mode.EXACT: 1.67e15, Mode.BALANCED: 1.67e15 * 8 / 27}


@pytest.fixture(autouse=True)
def fresh(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="petct.decisions")
    forget_decisions()


def scans_on(
    device: SimulatedDevice, *, mode: Mode = Mode.EXACT, kind: type[SimulatedScan] = SimulatedScan
) -> list[SimulatedScan]:
    members = [
        SimulatedMember(Architecture.PLAIN, OrganEncoding.NONE, folds=2, weight=1.0, windows=WINDOWS),
        SimulatedMember(Architecture.RESENC_M, OrganEncoding.BINARY, folds=1, weight=1.0, windows=WINDOWS),
    ]
    return [kind(name, members=members, voxels=12 * 10**6, mode=mode, device=device) for name in ("PSMA", "FDG")]


def run(behaviour: Behaviour, *, mode: Mode = Mode.EXACT, measured_error: float = 1.0, seed: int = 0) -> Outcome:
    device = SimulatedDevice(behaviour=behaviour, random=Random(seed))
    return simulate(scans_on(device, mode=mode), device=device, limit_s=LIMIT_S, measured_error=measured_error)


def losses() -> list[str]:
    return [f"{decision.about}: {decision.chosen}" for decision in decisions() if decision.is_loss]


def given_up() -> list[str]:
    """The names of all folds that a loss says are given up."""
    names = []
    for decision in decisions():
        if decision.is_loss and decision.chosen.startswith("given up"):
            member, _, folds = decision.about.replace(" folds ", " fold ").partition(" fold ")
            names += [f"{member} fold {fold}" for fold in folds.split(", ")]
    return names


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


def test_nothing_is_made_or_opened_for_nothing() -> None:
    device = SimulatedDevice(behaviour=Behaviour(1e11), random=Random(0))
    scans = scans_on(device)
    pace = Deadline(LIMIT_S, started_s=0.0, clock=device.clock, measure=lambda *_: MachineSpeed(1e11, slowness=1.0))
    pace.begin(scans)
    psma, fdg = (scan.folds()[0].task for scan in scans)
    # After the networks come 10 s for the process, and 24e6 x 1.3e-7 = 3.1 s. What a network with one channel for the
    # PET and one for the CT sees takes 12e6 x (2e-8 + 3e-8) = 0.6 s.
    device.now_s = LIMIT_S - 13.2 - 0.7
    assert pace.is_wanted([psma])
    device.now_s = LIMIT_S - 13.2 - 0.4
    assert not pace.is_wanted([fdg])
    device.now_s = LIMIT_S - 13.0
    assert pace.allow(psma).mirrorings == 0
    assert pace.executed.fold_runs == ()
    assert [line for line in losses() if "empty" in line] == [
        "FDG plain_0 folds 0, 1: given up, and the mask is empty",
        "PSMA plain_0 folds 0, 1: given up, and the mask is empty",
    ]


def many_folds_on(device: SimulatedDevice) -> list[SimulatedScan]:
    members = [
        SimulatedMember(Architecture.PLAIN, OrganEncoding.NONE, folds=5, weight=1.0, windows=WINDOWS),
        SimulatedMember(Architecture.RESENC_M, OrganEncoding.BINARY, folds=3, weight=1.0, windows=WINDOWS),
    ]
    return [
        SimulatedScan(name, members=members, voxels=12 * 10**6, mode=Mode.EXACT, device=device)
        for name in ("PSMA", "FDG")
    ]


def test_with_a_fold_its_members_later_ones_are_given_up() -> None:
    device = SimulatedDevice(behaviour=Behaviour(1e13), random=Random(0))
    scans = many_folds_on(device)
    pace = Deadline(LIMIT_S, started_s=0.0, clock=device.clock, measure=lambda *_: MachineSpeed(1e13, slowness=1.0))
    pace.begin(scans)
    psma, fdg = (scan.folds() for scan in scans)
    assert scans[0].run(psma[:1], pace=pace, is_ready=False)
    assert scans[1].run(fdg[:1], pace=pace, is_ready=False)
    # Something else took nearly all of the time: one more fold of exact takes 1.1e12 x 216 / 1e13 = 24 s, with a single
    # mirroring 3 s.
    device.now_s = LIMIT_S - 14.0
    assert not scans[0].run(psma[1:5], pace=pace, is_ready=True)
    assert losses() == ["PSMA plain_0 folds 1, 2, 3, 4: given up"]
    assert not pace.is_wanted(work.task for work in psma[2:5])
    assert losses() == ["PSMA plain_0 folds 1, 2, 3, 4: given up"]  # said once
    assert pace.allow(psma[3].task).mirrorings == 0


def test_what_is_not_averaged_with_a_part_is_said() -> None:
    device = SimulatedDevice(behaviour=Behaviour(2 * 5 * 1.1e12 / (2.0 * LIMIT_S)), random=Random(0))
    outcome = simulate(many_folds_on(device), device=device, limit_s=LIMIT_S, measured_error=1.0)
    for tracer in ("PSMA", "FDG"):
        (fold,) = outcome.executed.of(tracer)
        assert (fold.member, fold.fold, fold.is_whole) == ("plain_0", 0, False)
        assert f"{tracer} plain_0 folds 1, 2, 3, 4: given up" in losses()
        assert f"{tracer} resenc_m_1 folds 0, 1, 2: given up" in losses()
    assert sorted(given_up()) == sorted(set(outcome.folds) - {"PSMA plain_0 fold 0", "FDG plain_0 fold 0"})


@given(st.integers(0, 10**9))
@settings(max_examples=250, deadline=None)
def test_whatever_the_case(seed: int) -> None:
    forget_decisions()
    outcome = random_case(Random(seed))
    if outcome.is_steady:  # what comes after the networks takes longer than foreseen where a device becomes slower then
        assert not outcome.is_late
    if outcome.has_time and outcome.is_steady:
        assert outcome.ended_s <= outcome.limit_s
        assert outcome.empty_masks == 0
    if outcome.fits_easily:
        assert outcome.value == pytest.approx(1.0)
    if outcome.value < 1.0 - 1e-9:
        assert losses()
    runs = [f"{fold.tracer} {fold.member} fold {fold.fold}" for fold in outcome.executed.fold_runs]
    assert sorted(runs + given_up()) == sorted(outcome.folds)


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
    quick = OrganSettings(task=OrganTask.FAST, weights=Path("weights"), timeout_s=60.0, sha256={"plans.json": "0" * 64})
    slow = replace(quick, timeout_s=600.0)
    assert pace.organ_settings(quick, scans=scans, cts=2) is quick
    assert decisions() == ()
    limited = pace.organ_settings(slow, scans=scans, cts=2)
    assert isinstance(limited, HurriedOrganSettings)
    # Before they are counted, windows are those of the whole scan: 27 x 11 s for each of two scans, more than half.
    assert 0.45 * 600.0 < limited.total_s < 0.5 * 600.0
    assert limited == HurriedOrganSettings(**vars(slow), total_s=limited.total_s)  # the manifest's own limit stays
    assert pace.organ_settings(slow, scans=scans, cts=1) == limited
    assert [(one.about, one.chosen) for one in decisions()] == [
        ("organs", f"at most {limited.total_s:.0f} s for 2 CTs"),
        ("organs", f"at most {limited.total_s:.0f} s for the CT"),
    ]
    device.now_s = LIMIT_S + 1.0
    assert pace.organ_settings(slow, scans=scans, cts=1) == HurriedOrganSettings(**vars(slow), total_s=1.0)


def test_each_kind_of_device_is_measured_for_itself() -> None:
    # Before memory is planned, networks are to run on the GPU; then there turns out to be too little of its memory.
    device = SimulatedDevice(behaviour=Behaviour(1e11), random=Random(0))
    measured: list[str] = []

    def measure(on: torch.device, _: object) -> MachineSpeed:
        measured.append(on.type)
        return MachineSpeed(1e14 if on.type == "cuda" else 1e11, slowness=1.0)

    scans = scans_on(device)
    for scan in scans:
        scan.running = replace(scan.running, device=torch.device("cuda"))
    pace = Deadline(LIMIT_S, started_s=0.0, clock=device.clock, measure=measure)
    settings_ = OrganSettings(task=OrganTask.FAST, weights=Path("weights"), timeout_s=10.0, sha256={})
    for _ in range(2):
        pace.organ_settings(settings_, scans=scans, cts=2)
    assert measured == ["cuda"]
    pace.begin(scans_on(device))
    assert measured == ["cuda", "cpu"]
    # All takes 1.67e15 / 1e11 = 16700 s on the CPU, and 17 s on the GPU.
    assert losses()[0] == "mode: balanced instead of exact"


def test_passes_of_the_pilot_are_no_part_of_opening() -> None:
    class WarmingUp(SimulatedScan):
        """Times a third pass, after two that are slower."""

        def time_window(self, work: FoldWork) -> WindowTimes:
            for _ in range(2):
                self._device.work(20.0)
            return super().time_window(work)

    # An exact run takes 1.67e15 / 1e12 = 1670 s.
    device = SimulatedDevice(behaviour=Behaviour(1e12), random=Random(0))
    scans = scans_on(device, kind=WarmingUp)
    books = Books(LIMIT_S, started_s=0.0, clock=device.clock, scans=scans, speed=MachineSpeed(1e12, slowness=1.0))
    first_plan(books, measure=lambda *_: MachineSpeed(1e12, slowness=1.0))
    assert device.now_s > 2 * 20.0 * slowness_of(1e12)
    # Opening takes one second on the reference machine.
    assert books.rates.opening_s == pytest.approx(1.25 * slowness_of(1e12))


def test_the_judge_sees_a_planner_that_reserves_nothing_for_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    # A window takes 10 s, and 800 of them more than there is; what comes after 8e8 voxels takes 8e8 x 5e-8 = 40 s.
    windows = {Mode.EXACT: 400, Mode.BALANCED: 400, Mode.FAST: 400}
    member = SimulatedMember(Architecture.PLAIN, OrganEncoding.NONE, folds=1, weight=1.0, windows=windows)

    def outcome() -> Outcome:
        device = SimulatedDevice(behaviour=Behaviour(1.1e11), random=Random(0))
        scans = [
            SimulatedScan(name, members=[member], voxels=4 * 10**8, mode=Mode.FAST, device=device)
            for name in ("PSMA", "FDG")
        ]
        return simulate(scans, device=device, limit_s=LIMIT_S, measured_error=1.0)

    careful = outcome()
    assert not careful.is_late
    assert summarise([careful]).late == 0
    monkeypatch.setattr(Rates, "after_s", lambda *_: 0.0)
    monkeypatch.setattr(deadline_books, "_FIXED_RESERVE_S", 0.0)
    assert outcome().is_late
    assert summarise([outcome()]).late == 1


def test_a_stall_at_the_end_is_nobodys_fault() -> None:
    # Other work is ten times as slow as on the reference machine: of 10 operations per second, two seconds take 200.
    device = SimulatedDevice(behaviour=Behaviour(10.0, stall_at_s=3.0, stall_s=5.0), random=Random(0))
    assert [device.would_end_s(start_s, 2.0) for start_s in (1.0, 4.0, 9.0)] == pytest.approx([21.0, 24.0, 29.0])


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
    assert device.begun_s == 2.0
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
