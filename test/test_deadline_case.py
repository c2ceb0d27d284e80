"""A whole case of tiny real networks under a clock that only their windows move."""

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmark_case import write_benchmark_case, write_benchmark_manifest
from inference import Segmented, ensemble_on, prepare_scan, segment_case
from operation.deadline import Deadline
from operation.machine_speed import MachineSpeed
from operation.network_cost import window_flops
from petct import stages
from petct.case import Case, Tracer
from petct.decisions import decisions, forget_decisions
from petct.errors import CaseError
from petct.folders import read_case
from petct.labels import Label
from petct.manifest import Manifest, Mode, read_manifest
from segmentation import ensemble as ensemble_module
from segmentation.beside_networks import AtOnce, OneThread
from segmentation.ensemble import ScanEnsemble
from segmentation.fold_runs import Executed, FoldRun, read_executed
from segmentation.organ_maps import OrganSource
from segmentation.pace import Allowance, FoldGivenUp, FoldTask, Pace, Replayed, Unhurried, WindowTimes
from segmentation.torch_network import TorchNetwork
from segmentation.totalsegmentator import HurriedOrganSettings
from segmentation.turns import predict_in_turn
from test_deadline import given_up

CPU = torch.device("cpu")
WINDOW_S = 1.0  # one pass of any of the networks


class Clock:
    """Stands still but while a network computes."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.window_s = WINDOW_S

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    ticking, compute = Clock(), TorchNetwork.__call__

    def call(network: TorchNetwork, windows: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        ticking.now_s += ticking.window_s * len(windows)
        return compute(network, windows)

    monkeypatch.setattr(TorchNetwork, "__call__", call)
    monkeypatch.setattr(ensemble_module, "time", SimpleNamespace(perf_counter=ticking))
    forget_decisions()
    return ticking


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return read_case(write_benchmark_case(tmp_path_factory.mktemp("case") / "train_0001"))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """PSMA: soft (fold 2); FDG: masks (folds 0 and 3), and again as a second member with fold 3 alone."""
    found = read_manifest(write_benchmark_manifest(tmp_path_factory.mktemp("models")))
    (masks,) = found.fdg.members
    other = replace(masks, name="other", folds=(3,), weight=0.5)
    return replace(found, fdg=replace(found.fdg, members=(masks, other)), mirroring=True, tile_step=1.0)


def run(case: Case, manifest: Manifest, pace: Pace | None) -> dict[Tracer, Segmented]:
    return segment_case(case, manifest=manifest, organ_source=OrganSource.GIVEN, device=CPU, pace=pace)


def deadline(
    limit_s: float, clock: Clock, *, flops_per_s: float = 1e9, true_flops_per_s: float | None = None
) -> Deadline:
    """Nothing but windows takes time, so that little is to be reserved for it. Measured again, the speed is right."""

    def measure(_: torch.device, window: Sequence[int] | None) -> MachineSpeed:
        return MachineSpeed(flops_per_s if window is None else true_flops_per_s or flops_per_s, slowness=0.001)

    return Deadline(limit_s, started_s=0.0, clock=clock, measure=measure)


def are_equal(masks: dict[Tracer, Segmented], others: dict[Tracer, Segmented]) -> bool:
    return all(np.array_equal(masks[tracer].ttb, others[tracer].ttb) for tracer in Tracer)


def ensembles(case: Case, manifest: Manifest) -> list[ScanEnsemble]:
    maps = {tracer: case.scan(tracer).organs for tracer in Tracer}
    return [
        prepare_scan(
            case.scan(tracer), organs=maps[tracer], manifest=manifest, device=CPU, is_everywhere=False
        ).ensemble
        for tracer in Tracer
    ]


def probabilities(case: Case, manifest: Manifest, pace: Pace | None) -> list[np.ndarray]:
    return list(predict_in_turn(ensembles(case, manifest), background=AtOnce(), pace=pace))


def losses() -> list[str]:
    return [f"{decision.about}: {decision.chosen}" for decision in decisions() if decision.is_loss]


@pytest.mark.parametrize("mode", list(Mode))
def test_with_time_to_spare_it_is_what_it_is_without_a_clock(
    mode: Mode, case: Case, manifest: Manifest, clock: Clock
) -> None:
    manifest = replace(manifest, mode=mode)
    expected = probabilities(case, manifest, None)
    for pace in (deadline(1e6, clock), Unhurried()):
        clock.now_s = 0.0
        found = probabilities(case, manifest, pace)
        assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
        assert pace.executed.mode is mode
        assert [str(fold).partition(":")[0] for fold in pace.executed.fold_runs] == [
            "PSMA soft fold 2",
            "FDG masks fold 0",
            "FDG masks fold 3",
            "FDG other fold 3",
        ]
        assert losses() == []
        mirrorings = 2 if mode is Mode.FAST else 4
        assert {fold.mirrorings for fold in pace.executed.fold_runs} == {mirrorings}
        assert sum(fold.windows for fold in pace.executed.fold_runs) * mirrorings * WINDOW_S == clock.now_s


def test_windows_are_counted_before_anything_is_made(case: Case, manifest: Manifest) -> None:
    for scan in ensembles(case, manifest):
        (work, *_) = scan.folds()
        at_most = {mode: scan.windows(work.model, mode=mode) for mode in Mode}
        assert not scan.has_looked
        scan.look()
        assert scan.has_looked
        for mode in Mode:
            counted = scan.windows(work.model, mode=mode)
            assert 0 < counted <= at_most[mode]
            (again,) = (one for one in ensembles(case, replace(manifest, mode=mode)) if one.name == scan.name)
            stages.reset()
            again.predict(iter([piece() for piece in again.inputs()]), background=AtOnce())
            folds = sum(scan.mirrorings(one.model, mode=mode) for one in scan.folds())
            assert stages.counts()["windows"] == counted * folds


def test_each_scans_first_fold_comes_first(case: Case, manifest: Manifest, clock: Clock) -> None:
    many = replace(manifest, psma=replace(manifest.psma, members=(*manifest.psma.members, *manifest.psma.members)))
    orders = []
    for background in (OneThread(), AtOnce()):
        pace = deadline(1e6, clock)
        found = list(predict_in_turn(ensembles(case, many), background=background, pace=pace))
        assert np.array_equal(found[0], probabilities(case, many, None)[0])
        orders.append([run.tracer for run in pace.executed.fold_runs])
    assert orders == [["PSMA", "FDG", "PSMA", "FDG", "FDG"], ["PSMA", "PSMA", "FDG", "FDG", "FDG"]]
    assert [decision.about for decision in decisions()].count("order of work") == 1  # memory was short: that is said


def needed_s(case: Case, manifest: Manifest, *, mirrorings: int) -> dict[str, float]:
    """Seconds of one fold of each scan."""
    seconds = {}
    for scan in ensembles(case, manifest):
        scan.look()
        windows = scan.windows(scan.folds()[0].model, mode=manifest.mode)
        seconds[scan.name] = windows * mirrorings * WINDOW_S
    return seconds


@pytest.mark.parametrize("flops_factor", [0.2, 1.0, 5.0])
def test_what_does_not_fit_is_given_up_and_the_masks_are_in_time(
    case: Case, manifest: Manifest, clock: Clock, flops_factor: float
) -> None:
    manifest = replace(manifest, mode=Mode.FAST)
    one = needed_s(case, manifest, mirrorings=1)
    scans = ensembles(case, manifest)
    flops = window_flops(scans[0].folds()[0].model) / WINDOW_S
    everything_s = 2 * (one["PSMA"] + 3 * one["FDG"])
    for part in (0.6, 0.35, 0.1):
        forget_decisions()
        clock.now_s = 0.0
        pace = deadline(part * everything_s, clock, flops_per_s=flops * flops_factor, true_flops_per_s=flops)
        masks = run(case, manifest, pace)
        assert clock.now_s <= part * everything_s
        assert losses()
        for tracer in Tracer:
            runs = pace.executed.of(tracer.name)
            assert sum(fold.windows + fold.windows_unmirrored for fold in runs) > 0
            assert masks[tracer].ttb.dtype == np.bool_
            assert masks[tracer].ttb.shape == case.scan(tracer).pet.GetSize()[::-1]
        every = [str(work.task) for scan in ensembles(case, manifest) for work in scan.folds()]
        assert sorted([str(fold).partition(":")[0] for fold in pace.executed.fold_runs] + given_up()) == sorted(every)
        # As a record keeps it, it is run again without a clock.
        executed = read_executed(json.loads(json.dumps(pace.executed.as_json())))
        again = Replayed(executed)
        assert are_equal(run(case, manifest, again), masks)
        assert again.executed == pace.executed


class Chosen(Unhurried):
    """Allows some folds, each so many mirrorings."""

    def __init__(self, mirrorings: dict[str, int], *, first: str | None = None) -> None:
        super().__init__()
        self._mirrorings = mirrorings
        self._first = first

    def begin(self, scans) -> None:
        super().begin(scans)
        for scan in scans:
            first = [work.task for work in scan.folds() if str(work.task) == self._first]
            scan.settle(mode=scan.running.mode, first=first[0] if first else None)

    def is_wanted(self, tasks) -> bool:
        return any(self._mirrorings.get(str(task), 0) for task in tasks)

    def allow(self, task: FoldTask) -> Allowance:
        return Allowance(mirrorings=self._mirrorings.get(str(task), 0))


def softmax_of(case: Case, manifest: Manifest, *, member: str, folds: tuple[int, ...]) -> np.ndarray:
    """FDG's probabilities by one member's folds alone."""
    (one,) = (one for one in manifest.fdg.members if one.name == member)
    alone = replace(manifest, fdg=replace(manifest.fdg, members=(replace(one, folds=folds),)))
    return probabilities(case, alone, None)[1]


@pytest.mark.parametrize(
    ("kept", "weights"),
    [
        (
            {"FDG masks fold 0": 4, "FDG masks fold 3": 4, "FDG other fold 3": 4},
            {("masks", (0, 3)): 1.0, ("other", (3,)): 0.5},
        ),
        ({"FDG masks fold 0": 4, "FDG other fold 3": 4}, {("masks", (0,)): 1.0, ("other", (3,)): 0.5}),
        ({"FDG masks fold 0": 4}, {("masks", (0,)): 1.0}),
        ({"FDG other fold 3": 4}, {("other", (3,)): 1.0}),
    ],
)
def test_members_that_were_not_run_have_no_weight(
    kept: dict[str, int], weights: dict[tuple[str, tuple[int, ...]], float], case: Case, manifest: Manifest
) -> None:
    _, found = probabilities(case, manifest, Chosen({"PSMA soft fold 2": 4, **kept}))
    expected = sum(
        weight * softmax_of(case, manifest, member=member, folds=folds) for (member, folds), weight in weights.items()
    )
    np.testing.assert_allclose(found, expected / sum(weights.values()), rtol=0.0, atol=2e-6)
    matters = found.sum(axis=0) > 0.5
    assert 0.01 < matters.mean() < 1.0
    np.testing.assert_allclose(found[:, matters].sum(axis=0), 1.0, atol=1e-5)


def test_a_fold_given_up_in_the_middle_is_as_if_it_had_not_been_begun(case: Case, manifest: Manifest) -> None:
    class Impatient(Unhurried):
        """Gives up the second fold after some windows; it may be run again without mirrorings, or not at all."""

        def __init__(self, again: int) -> None:
            super().__init__()
            self._again = again
            self._asked = 0

        def allow(self, task: FoldTask) -> Allowance:
            if str(task) != "FDG masks fold 3":
                return super().allow(task)
            self._asked += 1
            return Allowance(4, passed=self.passed) if self._asked == 1 else Allowance(self._again)

        def passed(self, passes: int) -> None:
            if passes >= 5:
                raise FoldGivenUp

    everything = {"PSMA soft fold 2": 4, "FDG masks fold 0": 4, "FDG other fold 3": 4}
    for again in (0, 1):
        pace = Impatient(again)
        found = probabilities(case, manifest, pace)
        expected = probabilities(case, manifest, Chosen(everything | {"FDG masks fold 3": again}))
        assert np.array_equal(found[1], expected[1])
        assert [run.mirrorings for run in pace.executed.of("FDG")] == [4, *([1] if again else []), 4]


def test_without_any_fold_all_is_background(case: Case, manifest: Manifest) -> None:
    psma, fdg = probabilities(case, manifest, Chosen({"FDG masks fold 0": 1}))
    assert (psma[Label.BACKGROUND] == 1.0).all()
    assert (psma[1:] == 0.0).all()
    assert (fdg[Label.TTB] > 0.5).any()


def test_another_member_may_be_run_first(case: Case, manifest: Manifest) -> None:
    every = {"PSMA soft fold 2": 4, "FDG masks fold 0": 4, "FDG masks fold 3": 4, "FDG other fold 3": 4}
    pace = Chosen(every, first="FDG other fold 3")
    _, found = probabilities(case, manifest, pace)
    assert [(run.member, run.fold) for run in pace.executed.of("FDG")] == [("other", 3), ("masks", 0), ("masks", 3)]
    np.testing.assert_allclose(found, probabilities(case, manifest, None)[1], rtol=0.0, atol=1e-6)
    again = Replayed(pace.executed)
    assert np.array_equal(probabilities(case, manifest, again)[1], found)


class ByUptake(Unhurried):
    """Runs so many windows of PSMA with mirrorings, and then so many without."""

    def __init__(self, mirrored: int, unmirrored: int) -> None:
        super().__init__()
        self._counts = (mirrored, unmirrored)

    def allow(self, task: FoldTask) -> Allowance:
        mirrored, unmirrored = self._counts
        if task.tracer != "PSMA":
            return super().allow(task)
        return Allowance(
            4, next_mirrorings=lambda done: 4 if done < mirrored else 1 if done < mirrored + unmirrored else 0
        )


def test_windows_by_uptake_say_what_windows_in_order_say(case: Case, manifest: Manifest) -> None:
    expected = probabilities(case, manifest, None)[0]
    pace = ByUptake(10**6, 0)
    np.testing.assert_allclose(probabilities(case, manifest, pace)[0], expected, rtol=0.0, atol=1e-5)
    (fold,) = pace.executed.of("PSMA")
    assert fold.is_whole
    assert fold.is_by_uptake
    assert fold.windows_unmirrored == 0


def test_what_no_window_saw_is_background(case: Case, manifest: Manifest) -> None:
    found = []
    for counts in ((0, 0), (0, 1), (2, 3)):
        pace = ByUptake(*counts)
        found.append(probabilities(case, manifest, pace)[0])
        (fold,) = pace.executed.of("PSMA")
        assert fold == FoldRun(
            "PSMA", "soft", 2, 4, counts[0], is_whole=False, windows_unmirrored=counts[1], is_by_uptake=True
        )
        again = Replayed(pace.executed)
        assert np.array_equal(probabilities(case, manifest, again)[0], found[-1])
    matters = found[0].sum(axis=0) > 0.5
    assert (found[0][Label.BACKGROUND][matters] > 1.0 - 1e-6).all()
    seen = [(one[Label.BACKGROUND][matters] < 0.999).sum() for one in found]
    assert seen[0] == 0 < seen[1] < seen[2]
    # Nothing is ever a third each.
    for one in found:
        np.testing.assert_allclose(one[:, matters].sum(axis=0), 1.0, atol=1e-5)


def test_a_record_of_another_ensemble_is_refused(case: Case, manifest: Manifest) -> None:
    stranger = Executed(Mode.EXACT, (FoldRun("PSMA", "soft", 4, mirrorings=1, windows=3, is_whole=True),))
    with pytest.raises(CaseError, match="^replay: folds must be those of the manifest's members, got PSMA soft fold 4"):
        probabilities(case, manifest, Replayed(stranger))
    other = Executed(Mode.EXACT, (FoldRun("PSMA", "soft", 2, mirrorings=4, windows=3, is_whole=True),))
    with pytest.raises(CaseError, match="^replay: fold must run as it did: PSMA soft fold 2: 3 windows"):
        probabilities(case, manifest, Replayed(other))


def test_work_can_be_counted_before_there_are_organs(case: Case, manifest: Manifest, clock: Clock) -> None:
    scans = [
        ensemble_on(case.scan(tracer), organs=None, manifest=manifest, device=CPU, is_everywhere=False)
        for tracer in Tracer
    ]
    pace = deadline(1000.0, clock)
    briefly, long = (replace(manifest.organs, timeout_s=timeout_s) for timeout_s in (30.0, 5000.0))
    assert pace.organ_settings(briefly, scans=scans, cts=2) == briefly
    limited = pace.organ_settings(long, scans=scans, cts=2)
    assert isinstance(limited, HurriedOrganSettings)
    assert limited.timeout_s == 5000.0
    assert 0.0 < limited.total_s < 1000.0


def test_the_pilot_window_is_timed_by_the_clock(case: Case, manifest: Manifest, clock: Clock) -> None:
    scan, _ = ensembles(case, manifest)
    clock.window_s = 7.0
    assert scan.time_window(scan.folds()[0]) == WindowTimes(open_s=0.0, pass_s=7.0)
    assert clock.now_s == 7.0  # a slow one is not run twice
    clock.window_s = 0.5
    assert scan.time_window(scan.folds()[0]) == WindowTimes(open_s=0.0, pass_s=0.5)
    assert clock.now_s == 7.0 + 3 * 0.5


def test_the_log_says_what_was_given_up(
    case: Case, manifest: Manifest, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    everything_s = sum(needed_s(case, manifest, mirrorings=4).values())
    with caplog.at_level(logging.WARNING, logger="petct.decisions"):
        run(case, manifest, deadline(0.6 * everything_s, clock, flops_per_s=1e8))
    assert any("mirrorings, because all takes" in record.getMessage() for record in caplog.records)
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
