"""A record is kept while a run goes on, and is there however the run ends."""

import hashlib
import json
import logging
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from operation.record_inputs import FileDigests
from operation.recording import Recording, record_file, recording
from operation.run_record import OutcomeKind, RunRecord, WeightFile, read_record
from operation.setting import Setting
from petct import stages
from petct.case import Tracer
from petct.decisions import decide, forget_decisions
from petct.errors import CaseError
from petct.folders import find_files, read_case
from petct.manifest import Mode, read_manifest
from platform_case import write_platform_case
from segmentation.organ_maps import OrganSource
from segmentation.weight_files import sha256_of
from whole_case import CT_GRIDS, PET_GRIDS, THRESHOLDS_SUV, stand_in_models, write_case, write_manifest


@pytest.fixture(autouse=True)
def _nothing_from_before():
    stages.reset()
    forget_decisions()
    yield
    stages.reset()
    forget_decisions()


@pytest.fixture
def case(tmp_path: Path) -> Path:
    return write_case(tmp_path / "Doe_Jane", has_organs=False)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "output"


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    manifest = read_manifest(write_manifest(stand_in_models(tmp_path / "models"), mode=Mode.BALANCED))
    return Setting(manifest=manifest, organ_source=OrganSource.AUTO, device=torch.device("cpu"), time_limit_s=90.5)


def lesions(tracer: Tracer) -> np.ndarray:
    """Two lesions, the second of two voxels that share an edge; in other places for each tracer."""
    mask = np.zeros(PET_GRIDS[tracer].shape_zyx, dtype=bool)
    mask[2:4, 3, 5 : 8 if tracer is Tracer.PSMA else 9] = True
    mask[10, 10, 10] = mask[10, 11, 11] = True
    return mask


def take_all(record: Recording, setting: Setting, case: Path, masks: dict[Tracer, np.ndarray]) -> None:
    """What a run does, without its networks."""
    record.take_setting(setting)
    with stages.stage("read"):
        record.take_files(find_files(case))
        read = read_case(case)
    record.take_case(read)
    stages.count("windows", 7)
    decide("mode", "balanced", because="somebody said so")
    record.take_masks({tracer: (mask, PET_GRIDS[tracer]) for tracer, mask in masks.items()})


def fail(error: BaseException, *, after: object) -> None:
    """What a run ends with, after something that it did."""
    raise error


def kept(setting: Setting, case: Path, output: Path, masks: dict[Tracer, np.ndarray] | None = None) -> RunRecord:
    with recording(None, case_folder=case, output=output) as record:
        take_all(record, setting, case, masks or {tracer: lesions(tracer) for tracer in Tracer})
        assert not (output / "run.json").exists()
    return read_record(output / "run.json")


def test_what_went_in_and_what_came_out(setting: Setting, case: Path, output: Path) -> None:
    record = kept(setting, case, output)
    for tracer in Tracer:
        scan = record.scans[tracer]
        assert (scan.suv_threshold, scan.organs) == (THRESHOLDS_SUV[tracer], OrganSource.TOTALSEGMENTATOR)
        assert list(scan.files) == ["pet", "ct", "threshold"]
        for file in scan.files.values():
            assert file.sha256 == sha256_of(case / file.place)
            assert file.bytes == (case / file.place).stat().st_size
        for what, grid in (("pet", PET_GRIDS[tracer]), ("ct", CT_GRIDS[tracer])):
            found = scan.files[what].grid
            assert found is not None
            assert (found.shape_zyx, scan.files[what].place) == (grid.shape_zyx, f"{tracer.name}/{what.upper()}.nii.gz")
            assert np.allclose(found.spacing_mm_xyz + found.origin_mm_xyz, grid.spacing_mm_xyz + grid.origin_mm_xyz)
        assert scan.files["threshold"].grid is None
        mask = record.outcome.masks[tracer]
        assert mask.voxels_sha256 == hashlib.sha256(lesions(tracer).astype(np.uint8).tobytes()).hexdigest()
        voxels = 2 * (3 if tracer is Tracer.PSMA else 4) + 2
        assert (mask.voxels, mask.lesions) == (voxels, 2)
        assert mask.volume_ml == pytest.approx(voxels * np.prod(PET_GRIDS[tracer].spacing_mm_xyz) / 1000.0, abs=1e-3)
    assert (record.outcome.kind, record.outcome.error) == (OutcomeKind.MASKS, None)


def test_what_was_asked_for_and_with_which_files(setting: Setting, case: Path, output: Path) -> None:
    record = kept(setting, case, output)
    path = setting.manifest.path
    assert record.options is not None
    assert record.manifest is not None
    assert (record.options.mode, record.options.backend.value, record.options.time_limit_s) == (
        "balanced",
        "torch",
        90.5,
    )
    assert record.options.threads == torch.get_num_threads()
    assert (record.manifest.file, record.manifest.sha256) == ("tiny.toml", sha256_of(path))
    assert record.manifest.text == path.read_text(encoding="utf-8")
    member = setting.manifest.psma.members[0]
    assert [WeightFile("member psma_member", file, sha256) for file, sha256 in member.sha256.items()] == [
        file for file in record.weights if file.owner == "member psma_member"
    ]
    organs = [file for file in record.weights if file.owner == "organs"]
    assert len(organs) == 3
    assert all(file.file.startswith("Dataset298") for file in organs)
    assert {file.file: file.sha256 for file in organs} == setting.manifest.organs.sha256


def test_stages_counts_and_decisions(setting: Setting, case: Path, output: Path) -> None:
    record = kept(setting, case, output)
    assert record.counts == {"windows": 7}
    assert [decision.about for decision in record.decisions] == ["mode"]
    assert record.stages["read"].seconds > 0.0
    assert 10.0 < record.stages["read"].peak_mib <= record.peak_host_mib
    assert record.started_utc < record.ended_utc
    assert 0.0 < record.total_s < 60.0


def test_given_organs_need_no_weights_of_totalsegmentator(setting: Setting, tmp_path: Path, output: Path) -> None:
    record = kept(setting, write_case(tmp_path / "case"), output)
    assert {file.owner for file in record.weights} == {"member psma_member", "member fdg_member"}
    organs = record.scans[Tracer.FDG].files["organs"]
    assert (organs.place, record.scans[Tracer.FDG].organs) == ("FDG/totseg_24.nii.gz", OrganSource.GIVEN)
    assert organs.grid is not None
    assert organs.grid.shape_zyx == CT_GRIDS[Tracer.FDG].shape_zyx


def test_nobodys_folder_is_named(setting: Setting, case: Path, output: Path) -> None:
    kept(setting, case, output)
    assert "Jane" not in (output / "run.json").read_text(encoding="ascii")
    with pytest.raises(CaseError), recording(None, case_folder=case, output=output):
        raise CaseError(str(case), "must hold one case", f"{case}/x and {output}/y")
    record = read_record(output / "run.json")
    assert record.outcome.error == "INPUT: must hold one case, got INPUT/x and OUTPUT/y"


def test_empty_masks_are_masks(setting: Setting, case: Path, output: Path) -> None:
    record = kept(setting, case, output, {tracer: np.zeros_like(lesions(tracer)) for tracer in Tracer})
    assert {(mask.voxels, mask.volume_ml, mask.lesions) for mask in record.outcome.masks.values()} == {(0, 0.0, 0)}


def test_two_cases_of_one_process_share_nothing(setting: Setting, case: Path, tmp_path: Path) -> None:
    kept(setting, case, tmp_path / "first")
    stages.reset()
    forget_decisions()
    error = CaseError("other", "must be a case")
    with (
        pytest.raises(CaseError),
        recording(None, case_folder=tmp_path / "other", output=tmp_path / "second") as record,
    ):
        fail(error, after=record.take_setting(setting))
    second = read_record(tmp_path / "second" / "run.json")
    assert (second.scans, second.weights, second.decisions, second.counts) == ({}, (), (), {})
    assert (second.stages, second.outcome.masks) == ({}, {})


def test_the_peak_of_a_case_is_not_that_of_the_case_before(setting: Setting, case: Path, tmp_path: Path) -> None:
    with recording(None, case_folder=case, output=tmp_path / "large"):
        held = np.ones(300 << 20, dtype=np.uint8)
        del held
    with recording(None, case_folder=case, output=tmp_path / "small"):
        pass
    large, small = (read_record(tmp_path / name / "run.json").peak_host_mib for name in ("large", "small"))
    assert large - small > 250.0


# ---------------------------------------------------------------------------------------------------- how a run can end


def test_a_refused_case_has_a_record(setting: Setting, case: Path, output: Path) -> None:
    (case / "FDG" / "threshold.json").write_text('{"suv_threshold": -1}', encoding="utf-8")
    with pytest.raises(CaseError), recording(None, case_folder=case, output=output) as record:
        take_all(record, setting, case, {})
    kept_record = read_record(output / "run.json")
    assert kept_record.outcome.kind is OutcomeKind.REFUSED
    assert kept_record.outcome.error is not None
    assert kept_record.outcome.error.startswith("FDG/threshold.json: SUV threshold must be")
    file = kept_record.scans[Tracer.FDG].files["threshold"]
    assert (file.sha256, file.grid) == (sha256_of(case / "FDG" / "threshold.json"), None)
    assert (kept_record.scans[Tracer.FDG].suv_threshold, kept_record.weights) == (None, ())


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError("a\nb"), "RuntimeError: a b"),
        (SystemExit(143), "SystemExit: 143"),
        (KeyboardInterrupt(), "KeyboardInterrupt:"),
    ],
)
def test_a_run_that_fails_after_its_masks_has_none_on_record(
    setting: Setting, case: Path, output: Path, error: BaseException, line: str
) -> None:
    masks = {tracer: lesions(tracer) for tracer in Tracer}
    with pytest.raises(type(error)), recording(None, case_folder=case, output=output) as record:
        fail(error, after=take_all(record, setting, case, masks))
    outcome = read_record(output / "run.json").outcome
    assert (outcome.kind, outcome.error, outcome.masks) == (
        OutcomeKind.FAILED,
        line,
        {},
    )


def test_a_record_that_cannot_be_written_is_a_warning(
    setting: Setting, case: Path, output: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    path = tmp_path / "file" / "run.json"
    with recording(path, case_folder=case, output=output) as record:
        take_all(record, setting, case, {tracer: lesions(tracer) for tracer in Tracer})
    assert f"run record: must be written to {path}, got" in caplog.text
    assert not output.exists()


# -------------------------------------------------------------------------------------------------------- where it goes


def test_where_a_record_goes(case: Path, tmp_path: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    write_platform_case(case, input_dir=tmp_path / "input", has_organs=False)
    assert record_file(None, case_folder=case, output=output) == output / "run.json"
    assert record_file(None, case_folder=tmp_path / "nothing", output=output) == output / "run.json"
    assert record_file(None, case_folder=tmp_path / "input", output=output) == tmp_path / "temporary" / "run.json"
    assert record_file(tmp_path / "r.json", case_folder=tmp_path / "input", output=output) == tmp_path / "r.json"
    monkeypatch.delenv("TMPDIR")
    assert record_file(None, case_folder=tmp_path / "input", output=output) == Path("/tmp/run.json")


def test_an_earlier_runs_record_goes_at_once(setting: Setting, case: Path, output: Path, tmp_path: Path) -> None:
    kept(setting, case, output)
    with recording(tmp_path / "elsewhere.json", case_folder=case, output=output):
        assert list(output.iterdir()) == []
        assert not (tmp_path / "elsewhere.json").exists()
    assert (tmp_path / "elsewhere.json").is_file()
    with recording(tmp_path / "elsewhere.json", case_folder=case, output=output):
        assert not (tmp_path / "elsewhere.json").exists()


def test_a_record_of_another_format_is_an_earlier_runs(case: Path, output: Path) -> None:
    output.mkdir()
    (output / "run.json").write_text(json.dumps({"format": 99, "outcome": None}), encoding="utf-8")
    with recording(None, case_folder=case, output=output):
        assert list(output.iterdir()) == []


@pytest.mark.parametrize("name", ["threshold.json", "folder"])
def test_what_is_no_record_is_left_alone(case: Path, output: Path, name: str) -> None:
    (case / "PSMA" / "folder").mkdir()
    path = case / "PSMA" / name
    before = sorted((case / "PSMA").iterdir())
    rule = rf"^{path}: must be free for this run's record, or hold an earlier run's, got something else$"
    with pytest.raises(CaseError, match=rule), recording(path, case_folder=case, output=output):
        pass
    assert sorted((case / "PSMA").iterdir()) == before
    assert json.loads((case / "PSMA" / "threshold.json").read_text()) == {"suv_threshold": 3.0}


def test_what_others_left_among_temporary_files_costs_no_case(
    setting: Setting,
    case: Path,
    output: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "run.json").write_text("another program's", encoding="utf-8")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    write_platform_case(case, input_dir=tmp_path / "input", has_organs=False)
    with recording(None, case_folder=tmp_path / "input", output=output) as record:
        take_all(record, setting, case, {tracer: lesions(tracer) for tracer in Tracer})
    assert f"no run record is kept: {tmp_path / 'run.json'}: must be free for this run's record" in caplog.text
    assert (tmp_path / "run.json").read_text(encoding="utf-8") == "another program's"
    assert not output.exists()


# -------------------------------------------------------------------------------------------------------------- digests


def test_digests_of_files_that_can_be_read(tmp_path: Path) -> None:
    large, small, pipe = (tmp_path / name for name in ("large", "small", "pipe"))
    large.write_bytes(bytes(range(256)) * 9999)
    small.write_bytes(b"")
    os.mkfifo(pipe)
    digests = FileDigests([tmp_path / "missing", pipe, tmp_path, large, small])
    digests.wait(30.0)
    assert [digests.of(path) for path in (tmp_path / "missing", pipe, tmp_path)] == [None] * 3
    assert digests.of(large) == (256 * 9999, sha256_of(large))
    assert digests.of(small) == (0, hashlib.sha256(b"").hexdigest())


def test_digests_are_stopped_in_the_middle_of_a_file(tmp_path: Path) -> None:
    first, huge = tmp_path / "first", tmp_path / "huge"
    first.write_bytes(b"1")
    huge.touch()
    os.truncate(huge, 200 << 30)  # without a byte on the disk
    digests = FileDigests([first, huge])
    while digests.of(first) is None:
        digests.wait(0.01)
    digests.stop()
    assert digests.of(huge) is None
    assert "digests" not in [thread.name for thread in threading.enumerate()]


def test_a_failed_run_does_not_wait_for_a_huge_file(case: Path, output: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    huge = case / "FDG" / "CT.nii.gz"
    os.truncate(huge, 200 << 30)  # without a byte on the disk
    with pytest.raises(CaseError), recording(None, case_folder=case, output=output) as record:
        fail(CaseError("FDG/CT.nii.gz", "must be smaller"), after=record.take_files(find_files(case)))
    files = read_record(output / "run.json").scans[Tracer.FDG].files
    assert (files["ct"].sha256, files["ct"].bytes) == (None, None)
    assert files["pet"].sha256 == sha256_of(case / "FDG" / "PET.nii.gz")
    assert f"run record: {output / 'run.json'}" in caplog.text
