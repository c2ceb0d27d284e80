"""`python -m benchmark` from its command line to its JSON, with stand-ins for both programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from benchmark import rounds
from benchmark.__main__ import main
from benchmark.comparison import compare_masks, worst
from benchmark_case import PET_GRIDS, write_benchmark_case, write_benchmark_manifest
from petct.case import Tracer
from petct.errors import CaseError
from petct.geometry import to_image

ROOT = Path(__file__).resolve().parent.parent
# Both programs: the reference marks every voxel from 6 SUV; `exact` does too, `balanced` leaves one out and `fast`
# finds nothing at all, however fast it is.
STAND_IN = """
import json, os, sys, time
from pathlib import Path
import SimpleITK as sitk

given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
who = given.get("--mode", "reference")
with open(os.environ["STAND_IN_CALLS"], "a") as stream:
    stream.write(who + " " + " ".join(sys.argv[1:]) + "\\n")
if who == os.environ.get("STAND_IN_FAILS"):
    sys.exit("no memory for that")
held = bytearray(60 * 2**20)
held[::4096] = b"1" * len(held[::4096])
for tracer in ("psma", "fdg"):
    pet = sitk.ReadImage(str(Path(given["--input"]) / tracer.upper() / "PET.nii.gz"))
    mask = sitk.Cast(pet >= (6.0 if who != "fast" else 1e9), sitk.sitkUInt8)
    if who == "balanced":
        z, y, x = sitk.GetArrayFromImage(mask).nonzero()
        mask[int(x[0]), int(y[0]), int(z[0])] = 0
    place = Path(given["--output"]) / "images" / f"{tracer}-pet-ttb"
    place.mkdir(parents=True)
    sitk.WriteImage(mask, str(place / "ttb.mha"), useCompression=True)
timings = {"stages_s": {"read": 0.001, "network": 0.002 if who != "fast" else 0.001}, "peak_gpu_mib": None}
if who != os.environ.get("STAND_IN_SAYS_NOTHING"):
    Path(given["--timings"]).write_text(json.dumps(timings))
time.sleep(0.3)  # longer than between two samples of what is held
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmark")
    write_benchmark_case(folder / "train_0001")
    write_benchmark_manifest(folder / "models")
    (folder / "stand_in.py").write_text(STAND_IN)
    return folder


@pytest.fixture
def calls(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where every start of a program is written down; both programs are stand-ins."""
    monkeypatch.setattr(rounds, "REFERENCE_PROGRAM", (str(place / "stand_in.py"),))
    monkeypatch.setattr(rounds, "OUR_PROGRAM", (str(place / "stand_in.py"),))
    monkeypatch.setenv("STAND_IN_CALLS", str(tmp_path / "calls.txt"))
    return tmp_path / "calls.txt"


def run(place: Path, tmp_path: Path, *options: str) -> tuple[int, dict[str, Any]]:
    command = ["--case-dir", str(place / "train_0001"), "--manifest", str(place / "models" / "tiny.toml")]
    command += ["--device", "cpu", "--work", str(tmp_path / "work"), "--json", str(tmp_path / "out.json")]
    code = main([*command, *options])
    return code, json.loads((tmp_path / "out.json").read_text())


def names(calls: Path) -> list[str]:
    return [line.split()[0] for line in calls.read_text().splitlines()]


def test_rounds_ratios_and_agreement(place: Path, calls: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    code, result = run(place, tmp_path, "--repeats", "2")
    assert code == 0
    assert names(calls) == ["reference", "exact", "balanced", "fast"] * 2
    assert (result["repeats"], result["compared_with"], result["device"]) == (2, "reference", "cpu")
    assert result["case"]["scans"]["psma"]["pet"]["shape_zyx"] == list(PET_GRIDS[Tracer.PSMA].shape_zyx)
    assert result["manifest"]["name"] == "tiny"
    assert result["machine"]["cores"] == len(os.sched_getaffinity(0))
    assert result["versions"]["torch"].startswith("2.")
    runs = {(one["round"], one["who"]): one for one in result["runs"]}
    assert len(runs) == len(result["runs"]) == 8
    for mode, part in result["modes"].items():
        theirs, ours = ([runs[number, who]["total_s"] for number in (0, 1)] for who in ("reference", mode))
        assert part["ratio_total"] == pytest.approx(np.median(theirs) / np.median(ours))
        network_s = 0.001 if mode == "fast" else 0.002
        assert part["ratio_network"] == pytest.approx(0.002 / network_s)
        assert part["ratio_non_network"] == pytest.approx((np.mean(theirs) - 0.002) / (np.mean(ours) - network_s))
        assert part["median_s"]["total"] == pytest.approx(np.mean(ours))
        assert part["reference_median_s"] == result["reference"]["median_s"]
        assert (part["min_s"]["total"], part["max_s"]["total"]) == (min(ours), max(ours))
        assert part["peak_host_mib"] > 60
        assert part["peak_gpu_mib"] is None
        assert part["stages_s"] == {"read": 0.001, "network": network_s}
        assert part["is_the_same_every_round"] is True
    exact, balanced, fast = (result["modes"][mode] for mode in ("exact", "balanced", "fast"))
    assert (exact["dice"], exact["differing_voxel_fraction"]) == (1.0, 0.0)
    sizes = {tracer: np.prod(PET_GRIDS[tracer].shape_zyx) for tracer in Tracer}
    assert balanced["differing_voxel_fraction"] == pytest.approx(1 / min(sizes.values()))
    assert balanced["tracers"]["psma"]["differing_voxels"] == 1
    volumes = balanced["tracers"]["fdg"]
    voxel_ml = PET_GRIDS[Tracer.FDG].voxel_ml
    assert volumes["expected_volume_ml"] - volumes["volume_ml"] == pytest.approx(voxel_ml)
    expected = volumes["expected_volume_ml"] / voxel_ml
    assert volumes["dice"] == pytest.approx(2 * (expected - 1) / (2 * expected - 1))
    assert fast["dice"] == 0.0  # an empty mask is fast, and shown for what it is
    printed = capsys.readouterr().out
    assert "| train_0001 | fast | reference | PSMA | 0.00000 |" in printed
    assert "| train_0001 | exact | reference | FDG | 1.00000 | 0 | 0.0e+00 |" in printed


def test_both_programs_get_the_same_case_manifest_and_device(place: Path, calls: Path, tmp_path: Path) -> None:
    run(place, tmp_path, "--repeats", "1", "--modes", "balanced", "--backend", "torch")
    reference, ours = (line.split()[1:] for line in calls.read_text().splitlines())
    shared = [
        "--input",
        str(place / "train_0001"),
        "--manifest",
        str(place / "models" / "tiny.toml"),
        "--device",
        "cpu",
    ]
    for command in (reference, ours):
        options = dict(zip(command[::2], command[1::2], strict=True))
        assert [text for pair in options.items() for text in pair if pair[0] in shared] == shared
    assert ours[-6:] == ["--organs", "given", "--mode", "balanced", "--backend", "torch"]
    assert (Path(reference[reference.index("--models") + 1]) / "members.json").is_file()


def test_a_benchmark_that_was_stopped_goes_on(place: Path, calls: Path, tmp_path: Path) -> None:
    options = ("--repeats", "2", "--modes", "exact", "fast")
    _, first = run(place, tmp_path, *options)
    (file,) = (tmp_path / "work" / "runs").glob("*/runs.jsonl")
    lines = file.read_text().splitlines(keepends=True)
    assert [json.loads(line)["who"] for line in lines] == ["reference", "exact", "fast"] * 2
    file.write_text("".join(lines[:4]) + lines[4][:100])  # stopped while the fifth was written down
    calls.unlink()
    code, second = run(place, tmp_path, *options)
    assert code == 0
    assert names(calls) == ["exact", "fast"]
    assert second["runs"][:4] == first["runs"][:4]
    assert len(second["runs"]) == 6

    calls.unlink()
    _, third = run(place, tmp_path, *options)
    assert not calls.exists()
    assert third == second
    run(place, tmp_path, *options, "--overwrite")
    assert names(calls) == ["reference", "exact", "fast"] * 2


def test_another_case_is_measured_anew(place: Path, calls: Path, tmp_path: Path) -> None:
    folder = write_benchmark_case(tmp_path / "train_0002")
    command = ["--case-dir", str(folder), "--manifest", str(place / "models" / "tiny.toml"), "--device", "cpu"]
    command += ["--work", str(tmp_path / "work"), "--json", str(tmp_path / "out.json"), "--repeats", "1"]
    command += ["--modes", "exact", "--skip-reference"]
    assert main(command) == 0
    (folder / "FDG" / "threshold.json").write_text("2.5")
    assert main(command) == 0
    assert names(calls) == ["exact", "exact"]


def test_without_the_reference_there_are_no_ratios(place: Path, calls: Path, tmp_path: Path) -> None:
    code, result = run(place, tmp_path, "--repeats", "1", "--skip-reference")
    assert code == 0
    assert names(calls) == ["exact", "balanced", "fast"]
    assert not (tmp_path / "work" / "models").exists()
    assert result["reference"] is None
    assert result["compared_with"] == "exact"
    assert [part["ratio_total"] for part in result["modes"].values()] == [None] * 3
    assert [part["dice"] for part in result["modes"].values()][::2] == [1.0, 0.0]


def test_what_fails_or_is_not_told_is_null(
    place: Path, calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("STAND_IN_FAILS", "balanced")
    monkeypatch.setenv("STAND_IN_SAYS_NOTHING", "fast")
    code, result = run(place, tmp_path, "--repeats", "2")
    assert code == 1
    assert names(calls).count("balanced") == 1  # it would fail again
    failed, silent = result["modes"]["balanced"], result["modes"]["fast"]
    for key in ("ratio_total", "ratio_non_network", "dice", "differing_voxel_fraction", "peak_host_mib"):
        assert failed[key] is None
    assert (failed["good_runs"], failed["failed_runs"], failed["error"]) == (0, 1, "no memory for that")
    assert silent["ratio_total"] > 0
    assert silent["ratio_non_network"] is silent["ratio_network"] is silent["median_s"]["network"] is None
    assert "- train_0001, balanced: failed: no memory for that" in capsys.readouterr().out

    monkeypatch.delenv("STAND_IN_FAILS")
    calls.unlink()
    code, result = run(place, tmp_path, "--repeats", "2")
    assert code == 0
    assert names(calls) == ["balanced", "balanced"]
    assert result["modes"]["balanced"]["dice"] > 0.9


def test_the_report_renders_what_was_measured(
    place: Path, calls: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    _, result = run(place, tmp_path, "--repeats", "1", "--modes", "exact")
    table = capsys.readouterr().out
    assert main(["report", str(tmp_path / "out.json")]) == 0
    report = capsys.readouterr().out
    assert table.endswith(report)  # behind the log
    exact = result["modes"]["exact"]
    total_s, ratio = exact["median_s"]["total"], exact["ratio_total"]
    assert f"| train_0001 | exact | {total_s:.1f} | {ratio:.1f}x |" in report
    assert "GPU: none" in report or result["machine"]["gpu"] in report
    assert "| network | 0.0 | 0.0 |" in report
    assert (
        "Case `train_0001`, manifest `tiny`, cpu, 1 round: PSMA PET 25 x 37 x 47 voxels of 4.4 x 2.6 x 3.1 mm" in report
    )

    (tmp_path / "other.json").write_text("[]")
    assert main(["report", str(tmp_path / "other.json")]) == 1
    assert "other.json: must be results of python -m benchmark --case" in capsys.readouterr().err


def test_the_commands_run_as_a_program(tmp_path: Path) -> None:
    for arguments, said in (
        (["--help"], "--case {demo,common,median,largest-psma,largest-fdg}"),
        (["report", "-h"], "results"),
    ):
        command = [sys.executable, "-m", "benchmark", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
        assert said in " ".join(done.stdout.split())
    done = subprocess.run(
        [sys.executable, "-m", "benchmark", "--case-dir", str(tmp_path), "--json", str(tmp_path / "o.json")],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        "input must hold inputs.json and images/, or PSMA/ and FDG/, got an empty folder"
    )


def write_mask(file: Path, mask: np.ndarray, *, tracer: Tracer = Tracer.PSMA) -> Path:
    sitk.WriteImage(to_image(mask.astype(np.uint8), PET_GRIDS[tracer]), file)
    return file


def test_masks_are_compared_voxel_by_voxel(tmp_path: Path) -> None:
    expected, mask = (np.zeros(PET_GRIDS[Tracer.PSMA].shape_zyx, dtype=bool) for _ in range(2))
    expected[3, 4:9, 5] = True
    mask[3, 6:10, 5] = True
    found = compare_masks(
        write_mask(tmp_path / "a.mha", mask), expected=write_mask(tmp_path / "b.mha", expected), tracer=Tracer.PSMA
    )
    voxel_ml = 3.1 * 2.6 * 4.4 / 1000
    assert found.dice == pytest.approx(2 * 3 / (4 + 5))
    assert found.differing_voxels == 1 + 2
    assert found.differing_voxel_fraction == pytest.approx(3 / (25 * 37 * 47))
    assert (found.volume_ml, found.expected_volume_ml) == pytest.approx((4 * voxel_ml, 5 * voxel_ml))


def test_two_empty_masks_agree_without_a_dice(tmp_path: Path) -> None:
    empty = write_mask(tmp_path / "a.mha", np.zeros(PET_GRIDS[Tracer.PSMA].shape_zyx, dtype=bool))
    found = compare_masks(empty, expected=empty, tracer=Tracer.PSMA)
    assert (found.dice, found.differing_voxels) == (None, 0)
    assert worst([found]) == (None, 0.0)
    assert worst([found, replace(found, dice=0.7, differing_voxel_fraction=0.1)]) == (0.7, 0.1)
    assert worst([]) == (None, None)


def test_masks_on_another_grid_or_none_at_all_are_refused(tmp_path: Path) -> None:
    one = write_mask(tmp_path / "a.mha", np.zeros(PET_GRIDS[Tracer.PSMA].shape_zyx, dtype=bool))
    other = write_mask(tmp_path / "b.mha", np.zeros(PET_GRIDS[Tracer.FDG].shape_zyx, dtype=bool), tracer=Tracer.FDG)
    with pytest.raises(CaseError, match="PSMA a.mha: grid must match the one to compare with"):
        compare_masks(one, expected=other, tracer=Tracer.PSMA)
    with pytest.raises(CaseError, match="PSMA c.mha: file must be readable"):
        compare_masks(tmp_path / "c.mha", expected=one, tracer=Tracer.PSMA)


def test_a_mode_that_writes_no_mask_is_named(
    place: Path, calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "nothing.py").write_text("print('done')")
    monkeypatch.setattr(rounds, "OUR_PROGRAM", (str(place / "nothing.py"),))
    code, result = run(place, tmp_path, "--repeats", "1", "--modes", "fast")
    assert code == 1
    assert result["modes"]["fast"]["dice"] is None
    assert "ttb.mha: file must be readable" in result["modes"]["fast"]["comparison_error"]
