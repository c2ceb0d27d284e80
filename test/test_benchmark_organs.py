"""The comparison of TotalSegmentator's command with our way, on runs that are made up."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from benchmark import organs as benchmark
from benchmark.commands import organs as command
from benchmark.measure import ColdRun
from benchmark.organs import Way, compare_maps, measure_patient, measured_ways
from petct.errors import CaseError
from petct.organs import Organ, label_number
from tiny_patients import write_patients

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "resources" / "demo.toml"
SPLEEN, LIVER, SKULL = label_number("spleen"), label_number("liver"), label_number("skull")
T1, T2 = label_number("vertebrae_T1"), label_number("vertebrae_T2")

WALL_S = {Way.STOCK: 30.0, Way.WHOLE: 20.0, Way.BODY: 12.0}


def test_maps_are_compared_voxel_by_voxel_and_class_by_class() -> None:
    stock = np.zeros((2, 3, 5), dtype=np.uint8)
    labels = stock.copy()
    stock[0, 0], labels[0, 0] = LIVER, LIVER
    stock[0, 1, :4], labels[0, 1, 1:5] = SPLEEN, SPLEEN
    stock[1, 0, :2], labels[1, 0, :2] = T1, T2  # another label of the same class
    labels[1, 2, :2] = SKULL

    agreement = compare_maps(labels, stock=stock)

    assert agreement.dice[Organ.LIVER] == 1.0
    assert agreement.dice[Organ.SPLEEN] == pytest.approx(2 * 3 / (4 + 4))
    assert agreement.dice[Organ.BONE] == pytest.approx(2 * 2 / (2 + 4))
    assert agreement.dice[Organ.THYROID] is None
    # 5 of liver, 5 of spleen's union, 2 vertebra, 2 skull are labelled; spleen's two ends and the last four differ.
    assert agreement.differing_voxels == 2 + 2 + 2
    assert agreement.equal_fraction == pytest.approx(1 - 6 / 14)


def test_empty_maps_are_equal_and_shapes_must_be() -> None:
    empty = np.zeros((2, 3, 4), dtype=np.uint8)
    agreement = compare_maps(empty, stock=empty)
    assert agreement.equal_fraction == 1.0
    assert set(agreement.dice.values()) == {None}
    with pytest.raises(ValueError, match=r"maps must have one shape, got \(2, 3, 4\) and \(2, 4, 3\)"):
        compare_maps(empty, stock=empty.reshape(2, 4, 3))


@pytest.fixture
def cold_runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], dict[str, str]]]:
    """The commands that would have been run; each leaves the maps behind that it should."""
    commands: list[tuple[list[str], dict[str, str]]] = []

    def run_cold(arguments, *, log, folder, environment):
        is_stock = "-i" in arguments
        way = Way.STOCK if is_stock else Way.BODY if "--crop-to-body" in arguments else Way.WHOLE
        done = sum(is_ours(other) == is_ours(arguments) for other, _ in commands)
        commands.append((list(arguments), dict(environment)))
        log.write_bytes(b"spoke \xff and ended")
        if is_stock:
            write_map(Path(arguments[arguments.index("-i") + 1]), Path(arguments[arguments.index("-o") + 1]))
        else:
            first = arguments.index("--cts") + 1
            output = Path(arguments[arguments.index("--output") + 1])
            for number, ct in enumerate(arguments[first : arguments.index("--output")]):
                write_map(Path(ct), output / f"{number}.nii.gz", is_shifted=way is Way.BODY)
        # The command's two runs of a round last as long as ours together; later rounds last longer.
        seconds = WALL_S[way] / (2 if is_stock else 1) + done // 2
        return ColdRun(0, seconds, seconds, 1000.0 * (1 + list(Way).index(way)), 1.0, 1.0)

    monkeypatch.setattr(benchmark, "run_cold", run_cold)
    return commands


def is_ours(arguments):
    return "-i" not in arguments


def write_map(ct: Path, organs: Path, *, is_shifted: bool = False) -> None:
    image = sitk.ReadImage(ct)
    labels = np.zeros(image.GetSize()[::-1], dtype=np.uint8)
    labels[2:8, 3 + is_shifted : 9 + is_shifted, 4:12] = LIVER
    found = sitk.GetImageFromArray(labels)
    found.CopyInformation(image)
    sitk.WriteImage(found, organs)


def test_ways_take_turns_and_the_commands_runs_add_up(cold_runs, tmp_path: Path) -> None:
    write_patients(tmp_path / "patients", count=1)
    patient = tmp_path / "patients" / "train_0000"
    (tmp_path / "work").mkdir()

    measured = measure_patient(patient, manifest=DEMO, device="cpu", repeats=3, work=tmp_path / "work")

    order = [is_ours(arguments) for arguments, _ in cold_runs]
    assert order == [False, False, True, True] * 3
    stock, environment = cold_runs[0]
    assert stock[-4:] == ["--ml", "--fastest", "--device", "cpu"]
    assert environment["TOTALSEG_WEIGHTS_PATH"] == str(ROOT / "resources" / "demo" / "totalsegmentator")
    configuration = json.loads((Path(environment["TOTALSEG_HOME_DIR"]) / "config.json").read_text(encoding="utf-8"))
    assert configuration["send_usage_stats"] is False
    for arguments, _ in (cold_runs[2], cold_runs[3]):
        first = arguments.index("--cts")
        assert [Path(ct).parent.name for ct in arguments[first + 1 : first + 3]] == ["PSMA", "FDG"]
    # Seconds grow by 2 from round to round for two runs of the command, and by 1 for one of ours.
    ways = measured["ways"]
    assert [run["wall_s"] for run in ways[Way.STOCK]["runs"]] == [30.0, 32.0, 34.0]
    assert [run["wall_s"] for run in ways[Way.WHOLE]["runs"]] == [20.0, 21.0, 22.0]
    assert ways[Way.BODY]["wall_s"] == 13.0
    assert ways[Way.BODY]["ratio"] == pytest.approx(32.0 / 13.0)
    assert ways[Way.STOCK]["peak_host_mib"] == 1000.0
    for agreement in ways[Way.WHOLE]["agreement"]:
        assert agreement["equal_fraction"] == 1.0
        assert agreement["dice"]["liver"] == 1.0
    for agreement in ways[Way.BODY]["agreement"]:
        assert agreement["dice"]["liver"] == pytest.approx(5 / 6)
        assert agreement["equal_fraction"] == pytest.approx(5 / 7)
    assert [agreement["tracer"] for agreement in ways[Way.BODY]["agreement"]] == ["psma", "fdg"]


def test_command_writes_json_and_a_table(cold_runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_patients(tmp_path / "patients", count=3)
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    result = tmp_path / "organs.json"
    arguments = ["--patients", str(tmp_path / "patients"), "--json", str(result), "--repeats", "1"]

    assert command.run(parser.parse_args([*arguments, "--names", "train_0002", "train_0000"])) == 0

    written = json.loads(result.read_text(encoding="utf-8"))
    assert [patient["patient"] for patient in written["patients"]] == ["train_0002", "train_0000"]
    assert (written["task"], written["device"], written["repeats"]) == ("fastest", "cpu", 1)
    assert written["packages"]["TotalSegmentator"].startswith("2.")
    assert [way["way"] for way in written["ways"]] == ["stock", "whole", "body"]
    head, line, *rows = capsys.readouterr().out.strip().splitlines()
    assert head.count("|") == line.count("|") == 8
    # Seconds: 30 and 32, 20 and 21, 12 and 13.
    assert [row.split("|")[1].strip() for row in rows] == ["stock", "whole", "body"]
    assert [row.split("|")[2].strip() for row in rows] == ["31.0", "20.5", "12.5"]
    assert rows[2].split("|")[5].strip() == "0.8333"
    with pytest.raises(CaseError, match="--names: must be patients of .*, got train_0007$"):
        command.run(parser.parse_args([*arguments, "--names", "train_0007"]))
    with pytest.raises(CaseError, match="--json: folder must exist"):
        command.run(parser.parse_args([*arguments[:2], "--json", str(tmp_path / "absent" / "organs.json")]))


def test_no_dice_is_no_number() -> None:
    entry = {"wall_s": 2.0, "ratio": 1.0, "peak_host_mib": 5.0, "agreement": []}
    rows = measured_ways([{"ways": dict.fromkeys(Way, entry)}])
    assert rows[0]["lowest_dice"] is None
    assert command.table(rows).splitlines()[2] == "| stock | 2.0 | 1.00 | 5 | - | - | - |"


def test_failed_run_is_told_with_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_patients(tmp_path / "patients", count=1)
    (tmp_path / "work").mkdir()

    def run_cold(arguments, *, log, folder, environment):
        log.write_text("first\nno space left\n", encoding="utf-8")
        return ColdRun(1, 1.0, 1.0, 1.0, 1.0, 1.0)

    monkeypatch.setattr(benchmark, "run_cold", run_cold)
    with pytest.raises(CaseError, match="^organs, stock: run must end without an error, got exit status 1: .*no space"):
        measure_patient(
            tmp_path / "patients" / "train_0000", manifest=DEMO, device="cpu", repeats=1, work=tmp_path / "work"
        )


def test_command_reads_nifti_only(tmp_path: Path) -> None:
    write_patients(tmp_path / "patients", count=1)
    folder = tmp_path / "patients" / "train_0000" / "FDG"
    sitk.WriteImage(sitk.ReadImage(folder / "CT.nii.gz"), folder / "CT.mha")
    (folder / "CT.nii.gz").unlink()
    with pytest.raises(CaseError, match="TotalSegmentator's command reads NIfTI, got .*CT.mha$"):
        measure_patient(tmp_path / "patients" / "train_0000", manifest=DEMO, device="cpu", repeats=1, work=tmp_path)
