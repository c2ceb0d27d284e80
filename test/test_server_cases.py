"""Real cases one after the other in one served process: the same masks each time, and memory that does not grow."""

import json
import math
import os
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import SimpleITK as sitk

from benchmark.__main__ import main
from benchmark.served import ServedCase, bad_cases, order_of_cases
from benchmark.served_summary import Summary, summarise, table
from petct.case import Tracer
from petct.channels import OrganEncoding
from petct.errors import CaseError
from petct.folders import SCAN_FOLDERS, read_case
from petct.manifest import Architecture, Backend
from platform_case import write_platform_case
from tiny_nnunet import make_member, make_results
from whole_case import PET_GRIDS, Models, write_case, write_manifest

FINER = 3  # times along each axis: PETs large enough that one which is kept shows in the process's memory
CASES = 10
MIB = 1 << 20
# What a process keeps more after each case if it keeps no more than that case's two PETs, in float32.
PETS_MIB = sum(math.prod(grid.shape_zyx) for grid in PET_GRIDS.values()) * FINER**3 * 4 / MIB


def write_fine_case(folder: Path) -> Path:
    """The patient of the tests, on finer PET grids; the networks see what they see otherwise."""
    write_case(folder)
    for name in SCAN_FOLDERS.values():
        file = folder / name / "PET.nii.gz"
        sitk.WriteImage(sitk.Expand(sitk.ReadImage(file), [FINER] * 3, sitk.sitkNearestNeighbor), file)
    return folder


def write_other_case(folder: Path) -> Path:
    """Another patient: half as much uptake above the threshold."""
    write_fine_case(folder)
    for name in SCAN_FOLDERS.values():
        file = folder / name / "PET.nii.gz"
        pet = sitk.ReadImage(file)
        middle = pet.GetSize()[0] // 2
        pet[:middle] = sitk.Clamp(pet[:middle], upperBound=1.5)
        sitk.WriteImage(pet, file)
    return folder


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What `python -m benchmark served` writes of ten cases, two in turns, with bad ones among them."""
    folder = tmp_path_factory.mktemp("served")
    members = {}
    for tracer, architecture, dataset_id, encoding in (
        (Tracer.PSMA, Architecture.PLAIN, 801, OrganEncoding.NONE),
        (Tracer.FDG, Architecture.RESENC_M, 922, OrganEncoding.SOFT_DISTANCE),
    ):
        options = {"architecture": architecture, "dataset_id": dataset_id, "folds": (0,), "encoding": encoding}
        members[tracer] = (make_member(make_results(folder / "results", **options), folder / tracer, **options),)
    models = Models(folder=folder, members=members, organ_weights=folder / "organs")
    manifest = write_manifest(models, backend=Backend.OPENVINO)
    cases = [write_fine_case(folder / "one"), write_other_case(folder / "other")]
    file = folder / "served.json"
    arguments = [
        "--cases",
        str(CASES),
        "--case-dirs",
        *map(str, cases),
        "--manifest",
        str(manifest),
        "--organs",
        "given",
    ]
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        code = main(["served", *arguments, "--json", str(file), "--work", str(folder / "work")])
    finally:
        os.environ.pop("OMP_NUM_THREADS")
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before
    log = (folder / "work" / "served" / "server.log").read_text(encoding="utf-8")
    assert code == 0, log[-5000:]
    return json.loads(file.read_text(encoding="utf-8")) | {"log": log}


def rows(served: dict) -> list[ServedCase]:
    return [ServedCase(**row) for row in served["cases"]]


def growth_mib(after_mib: list[float]) -> float:
    """How much more is held after the last case than after the fifth."""
    return after_mib[-1] - after_mib[4]


def allowed_mib(cases: int) -> float:
    """Half of what would be held more if each case after the fifth left its PETs behind."""
    return (cases - 5) * PETS_MIB / 2


def test_memory_stays_flat(served: dict) -> None:
    cases = rows(served)
    assert growth_mib([one.resident_mib for one in cases]) <= allowed_mib(len(cases))
    good = [one for one in cases if one.is_good]
    for name in ("one", "other"):
        peaks_mib = [one.peak_mib for one in good if one.name == name]
        assert max(peaks_mib[3:]) <= max(peaks_mib[:3]) + allowed_mib(len(cases))


def test_memory_that_grows_would_be_seen() -> None:
    flat = [800.0, 812.0, 811.0, 813.0, 812.0, 811.5, 813.0, 812.0, 811.0, 812.5, 813.0, 812.0]
    assert growth_mib(flat) <= allowed_mib(len(flat))
    kept = [held + number * PETS_MIB for number, held in enumerate(flat)]
    assert growth_mib(kept) > allowed_mib(len(kept))
    # Far above what the C library's own bookkeeping makes of it from one case to the next.
    assert allowed_mib(len(flat)) > 4.0


def test_cases_are_answered_as_they_should_be_and_alike_each_time(served: dict) -> None:
    cases = rows(served)
    assert [one.name for one in cases[:7]] == ["one", "other", "one", "other", "one", "without-pet", "other"]
    assert [one.number for one in cases] == list(range(1, CASES + 3))
    good = [one for one in cases if one.is_good]
    assert [one.status for one in good] == [201] * CASES
    masks = {name: {one.masks_sha256 for one in good if one.name == name} for name in ("one", "other")}
    assert [len(found) for found in masks.values()] == [1, 1]
    assert masks["one"] != masks["other"]
    bad = [one for one in cases if not one.is_good]
    assert [(one.name, one.status, one.masks_sha256) for one in bad] == [
        ("without-pet", 422, None),
        ("short-pet", 422, None),
    ]
    for one in bad:
        assert one.detail in served["log"].splitlines()
    assert "PET" in bad[0].detail


def test_nothing_is_left_between_cases(served: dict) -> None:
    cases = rows(served)
    assert {one.temporary_files for one in cases} == {0}
    # The first case starts what all share; a thread that has answered may not have closed its connection yet.
    assert max(one.files for one in cases[1:]) <= cases[1].files + 1
    assert max(one.threads for one in cases[1:]) <= cases[1].threads + 1


def test_each_case_has_its_own_times_in_the_log(served: dict) -> None:
    """Were the stages' times those of all cases together, they would rise from case to case."""
    seconds = [float(found) for found in re.findall(r"case: 201 Created, ([\d.]+) s", served["log"])]
    assert len(seconds) == CASES
    for one, said_s in zip([one for one in rows(served) if one.is_good], seconds, strict=True):
        assert said_s <= one.wall_s + 0.1


def test_it_ends_when_it_is_told_to(served: dict) -> None:
    assert served["log"].splitlines()[-1] == "server: must run until it is stopped, got SIGTERM"


def case_of(number: int, **changes) -> ServedCase:
    one = ServedCase(
        number=number,
        name=("one", "other")[number % 2],
        is_good=True,
        status=201,
        detail="done",
        masks_sha256=("a", "b")[number % 2],
        wall_s=2.0,
        peak_mib=1000.0 + number % 2,
        resident_mib=900.0,
        threads=8,
        files=7,
        temporary_files=0,
    )
    return replace(one, **changes)


def test_the_summary_of_a_long_life() -> None:
    cases = [case_of(number, resident_mib=900.0 + 0.25 * number) for number in range(1, 41)]
    cases.append(case_of(41, is_good=False, name="bad", status=422, masks_sha256=None, resident_mib=900.0 + 0.25 * 41))
    summary = summarise(cases)
    assert summary == Summary(
        served=40,
        good=40,
        refused=1,
        bad=1,
        is_repeatable=True,
        first_peak_mib=1000.5,
        last_peak_mib=1000.5,
        growth_mib_per_case=pytest.approx(0.25),
        threads=8,
        files=7,
        temporary_files=0,
    )
    assert summary.passes
    text = table(cases, summary=summary)
    assert "40 of 40 good cases served, 1 of 1 bad ones refused; the same masks each time" in text
    assert "+0.250 MiB per case" in text


@pytest.mark.parametrize(
    "changes",
    [
        {"status": 500},
        {"masks_sha256": None},
        {"masks_sha256": "another"},
        {"temporary_files": 1},
        {"is_good": False},  # served, though bad
        {"is_good": False, "status": 422},  # refused, and left masks
    ],
)
def test_a_life_with_one_wrong_case_does_not_pass(changes: dict) -> None:
    cases = [case_of(number) for number in range(1, 5)]
    assert summarise(cases).passes
    assert not summarise([*cases, case_of(5, **changes)]).passes


def test_the_summary_of_a_short_life_says_nothing_of_growth() -> None:
    summary = summarise([case_of(1)])
    assert asdict(summary) | {"first_peak_mib": None, "last_peak_mib": None, "growth_mib_per_case": None} == asdict(
        summary
    )
    assert "per case" not in table([case_of(1)], summary=summary)


def test_the_order_of_cases() -> None:
    good, bad = [Path("a"), Path("b")], [Path("x"), Path("y")]
    order = [(path.name, is_good) for path, is_good in order_of_cases(good, bad=bad, cases=11)]
    assert "".join(name for name, _ in order) == "ababaxbababya"
    assert [name for name, is_good in order if not is_good] == ["x", "y"]
    assert "".join(path.name for path, _ in order_of_cases(good, bad=[], cases=3)) == "aba"


def test_bad_cases_are_bad_each_for_its_own_reason(tmp_path: Path) -> None:
    good = write_case(tmp_path / "good")
    read_case(good)
    said = []
    for case in bad_cases(good, folder=tmp_path / "bad"):
        with pytest.raises(CaseError) as refused:
            read_case(case)
        said.append(str(refused.value))
    assert len(set(said)) == 3
    read_case(good)


def test_bad_cases_are_made_of_either_layout(tmp_path: Path) -> None:
    write_platform_case(write_case(tmp_path / "good"), input_dir=tmp_path / "input")
    for case in bad_cases(tmp_path / "input", folder=tmp_path / "bad"):
        with pytest.raises(CaseError):
            read_case(case)
