import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmark import rounds
from benchmark.__main__ import main
from benchmark.cases import describe_case
from benchmark.growth import Cost, Quantity, cost_of, run_points, steps
from benchmark.growth_points import Setup, channel_points, fold_points, grid_of_size, member_points, voxel_points
from benchmark.growth_tables import growth_json, growth_tables
from benchmark.run_log import RunRecord
from benchmark_case import write_benchmark_case, write_benchmark_manifest
from petct.case import Tracer
from petct.errors import CaseError
from petct.manifest import Backend, Mode, read_manifest
from segmentation.packed_model import read_packed_model
from segmentation.weight_files import check_member_files


def cost(label, *, network_s, rest_s, quantity=Quantity.MEMBERS, error=None):
    total_s = None if network_s is None else network_s + rest_s
    return Cost(
        quantity=quantity,
        label=label,
        pet_voxels=86_600,
        total_s=total_s,
        network_s=network_s,
        rest_s=rest_s,
        rest_range_s=None if rest_s is None else (rest_s - 0.25, rest_s + 0.5),
        peak_host_mib=900.0,
        peak_gpu_mib=None,
        runs=3,
        load_before=1.5,
        error=error,
    )


def record(number, *, total_s, network_s, peak_host_mib=800.0, error=None):
    return RunRecord(
        round=number,
        who="balanced",
        started="2026-01-02T03:04:05+00:00",
        load_before=0.5 + number,
        exit_code=0 if error is None else 2,
        error=error,
        total_s=total_s,
        network_s=network_s,
        cpu_s=1.0,
        peak_host_mib=peak_host_mib,
        peak_process_mib=peak_host_mib,
        peak_gpu_mib=None,
        stages_s={} if network_s is None else {"network": network_s},
        timings={},
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A patient and a manifest of tiny networks."""
    root = tmp_path_factory.mktemp("made")
    return write_benchmark_case(root / "train_0007"), write_benchmark_manifest(root / "models")


@pytest.fixture
def setup(made, tmp_path):
    case, manifest = made
    return Setup(
        manifest=read_manifest(manifest),
        case=describe_case(case, name="tiny"),
        mode=Mode.BALANCED,
        device="cpu",
        backend=Backend.TORCH,
        work=tmp_path / "work",
    )


def test_three_members_that_cost_little_more_than_their_networks_pass():
    costs = [
        cost(label, network_s=n, rest_s=r) for label, n, r in (("1", 10.0, 4.0), ("2", 20.0, 4.3), ("3", 31.0, 5.0))
    ]
    first, second, overall = steps(costs)
    assert (first.label, first.network_s, first.rest_s) == ("1 to 2", 10.0, pytest.approx(0.3))
    assert first.rest_share == pytest.approx(0.3 / 10.0)
    assert first.passes is True
    assert second.rest_share == pytest.approx(0.7 / 11.0)
    assert second.passes is False  # 6.4 %
    assert overall.label == "1 to 3"
    assert overall.rest_share == pytest.approx(1.0 / 21.0)
    assert overall.passes is True  # 4.8 %
    shown = growth_tables(costs)
    assert "| 2 | 0.1 | 24.30 | 20.00 | 4.30 (4.05 to 4.80) | 900 | - | 3 |" in shown
    assert "before a run: at most 1.5." in shown
    assert "| 2 to 3 | +11.00 | +0.70 | +6.4 % | fail |" in shown
    assert "at most its network time plus 5 % (1 to 3): **pass**" in shown


def test_three_members_that_each_read_the_scan_again_fail():
    costs = [cost(label, network_s=n, rest_s=r) for label, n, r in (("1", 2.0, 4.0), ("2", 4.0, 8.0), ("3", 6.0, 12.0))]
    assert [step.rest_share for step in steps(costs)] == [2.0, 2.0, 2.0]
    assert "(1 to 3): **fail**" in growth_tables(costs)
    found = growth_json(costs)["members"]
    assert [step["passes"] for step in found["steps"]] == [False, False, False]
    assert found["allowed_rest_share"] == 0.05


def test_a_step_without_network_time_says_neither():
    costs = [cost("1", network_s=3.0, rest_s=1.0), cost("2", network_s=3.0, rest_s=1.0)]
    (step,) = steps(costs)
    assert step.rest_share is None
    assert step.passes is None
    assert "(1 to 2): **cannot be said**" in growth_tables(costs)


def test_a_point_that_failed_is_no_step_and_is_named():
    broken = cost("2", network_s=None, rest_s=None, error="member psma_1: file is missing")
    costs = [cost("1", network_s=3.0, rest_s=1.0), broken, cost("3", network_s=9.0, rest_s=1.2)]
    (step,) = steps(costs)
    assert (step.label, step.network_s) == ("1 to 3", 6.0)
    shown = growth_tables(costs)
    assert "| 2 | 0.1 | - | - | - |" in shown
    assert "- members 2: failed: member psma_1: file is missing" in shown


def test_voxels_have_no_steps():
    costs = [cost("1 M", network_s=3.0, rest_s=1.0, quantity=Quantity.VOXELS)]
    assert growth_json(costs)["voxels"]["steps"] == []
    assert "Adding one" not in growth_tables(costs)


def test_a_cost_is_the_median_over_runs_and_the_highest_memory(setup):
    (point,) = member_points(1, setup=setup)
    runs = [
        record(0, total_s=10.0, network_s=4.0, peak_host_mib=700.0),
        record(1, total_s=30.0, network_s=6.0, peak_host_mib=950.0),
        record(2, total_s=11.0, network_s=7.0, peak_host_mib=800.0),
    ]
    found = cost_of(point, records=runs)
    assert (found.total_s, found.network_s) == (11.0, 6.0)
    assert found.rest_s == 6.0  # of 6, 24 and 4, each run's own difference
    assert found.peak_host_mib == 950.0
    assert found.pet_voxels == 25 * 37 * 47 + 23 * 36 * 49
    assert found.rest_range_s == (4.0, 24.0)
    assert found.load_before == 2.5
    assert found.runs == 3
    assert found.error is None


def test_members_are_the_first_of_each_tracer_under_other_names(setup):
    points = member_points(3, setup=setup)
    assert [point.label for point in points] == ["1", "2", "3"]
    manifest = points[2].plan.manifest
    for tracer in Tracer:
        members = manifest.tracer(tracer).members
        assert [member.name for member in members] == [f"{tracer}_{number}" for number in range(3)]
        own = setup.manifest.tracer(tracer)
        assert {member.dataset_id for member in members} == {own.members[0].dataset_id}
        for member in members:
            check_member_files(member)
            assert read_packed_model(member).clip == read_packed_model(own.members[0]).clip
        assert replace(manifest.tracer(tracer), members=own.members) == own
    assert len({point.plan.manifest.path for point in points}) == 3


def test_folds_are_copies_of_the_first_fold(setup):
    points = fold_points(4, setup=setup)
    for count, point in enumerate(points, start=1):
        for tracer in Tracer:
            (member,) = point.plan.manifest.tracer(tracer).members
            assert member.folds == tuple(range(count))
            check_member_files(member)
            digests = [digest for file, digest in member.sha256.items() if file.startswith("fold_")]
            own = setup.manifest.tracer(tracer).members[0]
            assert digests == [own.sha256[f"fold_{own.folds[0]}/checkpoint_final.safetensors"]] * count


def test_channels_need_a_member_of_both_tracers(setup, caplog):
    assert channel_points(setup=setup) == []
    assert "no member with organs binary" in caplog.text
    psma = replace(setup.manifest.psma, members=(*setup.manifest.psma.members, *setup.manifest.fdg.members))
    (point,) = channel_points(setup=replace(setup, manifest=replace(setup.manifest, psma=psma)))
    assert point.label == "binary (resenc_m)"


def test_a_size_keeps_the_field_of_view():
    grid = grid_of_size(335 * 192 * 192 / 8e6)
    assert grid.shape_zyx == (168, 96, 96)  # half of the most common grid's 335, 192, 192
    assert grid.spacing_mm_zyx == (6.54, 5.7292, 5.7292)
    z, y, x = grid_of_size(92.0).shape_zyx
    assert z * y * x == pytest.approx(92e6, rel=0.01)


@pytest.mark.parametrize(
    ("size", "message"),
    [("many", "must be millions of voxels or demo, got many"), ("0.01", "must be within 0.1-200 million, got 0.01")],
)
def test_sizes_that_are_none_are_refused(size, message, setup):
    with pytest.raises(CaseError, match=message):
        voxel_points([size], setup=setup)


def test_runs_take_turns_and_are_not_repeated(setup, monkeypatch):
    points = [*member_points(2, setup=setup), fold_points(1, setup=setup)[0]]
    calls = []

    def run_one(plan, *, who, number, **_folders):
        calls.append((plan.manifest.name, who, number))
        if plan.manifest.name == "members-2":
            return record(number, total_s=1.0, network_s=None, error="killed for memory")
        return record(number, total_s=8.0 + number, network_s=5.0)

    monkeypatch.setattr(rounds, "run_one", run_one)
    costs = run_points(points, repeats=2, work=setup.work)
    assert calls == [
        ("members-1", "balanced", 0),
        ("members-2", "balanced", 0),
        ("folds-1", "balanced", 0),
        ("members-1", "balanced", 1),
        ("folds-1", "balanced", 1),
    ]
    assert [(one.total_s, one.runs, one.error) for one in costs] == [
        (8.5, 2, None),
        (None, 0, "killed for memory"),
        (8.5, 2, None),
    ]
    calls.clear()
    assert run_points(points[:1], repeats=2, work=setup.work) == costs[:1]
    assert calls == []
    assert run_points(points[:1], repeats=3, work=setup.work)[0].total_s == 9.0
    assert calls == [("members-1", "balanced", 2)]


def test_the_command_runs_cold_processes_and_shows_what_a_member_adds(made, tmp_path, capsys):
    case, manifest = made
    file: Path = tmp_path / "growth.json"
    command = ["growth", "--json", str(file), "--tables", "members", "--members", "2", "--repeats", "1"]
    command += ["--case-dir", str(case), "--manifest", str(manifest), "--work", str(tmp_path / "work")]
    assert main([*command, "--mode", "exact", "--backend", "torch"]) == 0
    found = json.loads(file.read_text())
    points = found["members"]["points"]
    assert [point["label"] for point in points] == ["1", "2"]
    for point in points:
        assert point["network_s"] > 0.0
        assert point["total_s"] == pytest.approx(point["network_s"] + point["rest_s"])
        assert point["peak_host_mib"] > 100.0
    assert found["machine"]["cpu"]
    shown = capsys.readouterr().out
    assert "| 1 to 2 |" in shown
    assert "Adding one costs" in shown
