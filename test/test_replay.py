"""A recorded run done again: the same voxels, or an error that names what is not as it was."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

import inference
from operation.recording import recording
from operation.replay import Replay, check_same_masks, check_same_run, read_replay
from operation.run_record import MaskFound, Outcome, OutcomeKind, RunRecord, read_record, write_record
from operation.setting import Setting
from petct.case import Tracer
from petct.channels import OrganEncoding
from petct.errors import CaseError
from petct.manifest import Architecture, Backend, Mode, read_manifest
from petct.output import mask_file
from run_records import digest, run_record
from segmentation.organ_maps import OrganSource
from segmentation.weight_files import sha256_of
from tiny_nnunet import make_member, make_results
from whole_case import Models, stand_in_models, write_case, write_manifest

PROGRAM = Path(inference.__file__)


@pytest.fixture
def replay(tmp_path: Path) -> Replay:
    return Replay(file=tmp_path / "run.json", record=run_record())


# ----------------------------------------------------------------------------------------------- what must be as it was


def with_file(record: RunRecord, what: str, **changes: Any) -> RunRecord:
    """The record with a changed file of the PSMA scan."""
    scan = record.scans[Tracer.PSMA]
    files = {**scan.files, what: replace(scan.files[what], **changes)}
    return replace(record, scans={**record.scans, Tracer.PSMA: replace(scan, files=files)})


def without_organs(record: RunRecord) -> RunRecord:
    scan = record.scans[Tracer.PSMA]
    files = {what: file for what, file in scan.files.items() if what != "organs"}
    changed = replace(scan, organs=OrganSource.TOTALSEGMENTATOR, files=files)
    return replace(record, scans={**record.scans, Tracer.PSMA: changed})


RECORD = run_record()
MACHINE, OPTIONS, WEIGHTS = RECORD.machine, RECORD.options, RECORD.weights
OTHER = digest("other")
SHORT = f"{OTHER[:12]}..."


@pytest.mark.parametrize(
    ("now", "got"),
    [
        (replace(RECORD, product=replace(RECORD.product, version="0.2.0")), "version 0.2.0 instead of 0.1.0"),
        (
            replace(RECORD, product=replace(RECORD.product, code_sha256=OTHER)),
            f"code_sha256 {SHORT} instead of {digest('code')[:12]}...",
        ),
        (replace(RECORD, versions={**RECORD.versions, "torch": "2.7.1"}), "torch 2.7.1 instead of 2.8.0"),
        (replace(RECORD, versions={**RECORD.versions, "openvino": "2026.1"}), "openvino 2026.1 instead of nothing"),
        (replace(RECORD, machine=replace(MACHINE, cpu="Another")), "cpu Another instead of A processor"),
        (replace(RECORD, machine=replace(MACHINE, cores=4)), "cores 4 instead of 2"),
        (replace(RECORD, machine=replace(MACHINE, libc="glibc 2.39")), "libc glibc 2.39 instead of glibc 2.36"),
        (
            replace(RECORD, machine=replace(MACHINE, cpu_flags=("avx2", "avx512f"))),
            "cpu flag avx512f present instead of nothing; cpu flag fma nothing instead of present",
        ),
        (replace(RECORD, environment={}), "OMP_NUM_THREADS nothing instead of 1"),
        (
            replace(RECORD, environment={"OMP_NUM_THREADS": "1", "MKL_CBWR": "AVX2"}),
            "MKL_CBWR AVX2 instead of nothing",
        ),
        (replace(RECORD, options=replace(OPTIONS, device="cuda")), "device cuda instead of cpu"),
        (replace(RECORD, options=replace(OPTIONS, threads=2)), "threads 2 instead of 1"),
        (
            replace(RECORD, manifest=replace(RECORD.manifest, sha256=OTHER)),
            f"manifest sha256 {SHORT} instead of {digest('manifest')[:12]}...",
        ),
        (
            replace(RECORD, weights=(replace(WEIGHTS[0], sha256=OTHER), WEIGHTS[1])),
            f"member psma_plain plans.json sha256 {SHORT} instead of {digest('plans')[:12]}...",
        ),
        (
            with_file(RECORD, "ct", sha256=OTHER),
            f"PSMA ct sha256 {SHORT} instead of {digest('psma ct')[:12]}...",
        ),
        (with_file(RECORD, "pet", sha256=None), f"instead of {digest('psma pet')[:12]}..."),
        (
            without_organs(RECORD),
            f"PSMA organs totalsegmentator instead of given; PSMA organs sha256 nothing instead of "
            f"{digest('psma organs')[:12]}...",
        ),
    ],
)
def test_a_difference_is_refused_by_its_name(replay: Replay, now: RunRecord, got: str) -> None:
    rule = "^run.json: a replay must run on what the recorded run ran on, got "
    with pytest.raises(CaseError, match=f"{rule}.*{re.escape(got)}$"):
        check_same_run(replay, now=now)


@pytest.mark.parametrize(
    "now",
    [
        RECORD,
        replace(RECORD, started_utc="2026-01-01", total_s=1.0, stages={}, counts={}, decisions=(), executed=None),
        replace(RECORD, machine=replace(MACHINE, system="Linux 6.2 x86_64", memory_mib=8000)),
        replace(RECORD, options=replace(OPTIONS, time_limit_s=None)),
        replace(RECORD, manifest=replace(RECORD.manifest, file="other.toml")),
        with_file(RECORD, "pet", place="PSMA/other.nii.gz"),
    ],
)
def test_what_no_voxel_depends_on_may_differ(replay: Replay, now: RunRecord) -> None:
    check_same_run(replay, now=now)


def test_all_differences_are_in_one_line_and_many_are_counted(replay: Replay) -> None:
    versions = dict.fromkeys(("python", "torch", "openvino"), "0")
    now = replace(with_file(RECORD, "ct", sha256=OTHER), versions=versions, environment={})
    with pytest.raises(CaseError) as caught:
        check_same_run(replay, now=now)
    assert str(caught.value).count(" instead of ") == 3 + 1 + 1
    now = replace(now, versions={f"package {number}": "1" for number in range(20)})
    with pytest.raises(CaseError, match=r"; and 16 more$") as caught:  # 20 new, 2 old, two more; 8 are shown
        check_same_run(replay, now=now)
    assert "\n" not in str(caught.value)


def test_files_that_nobody_checked_are_warned_of(replay: Replay, caplog: pytest.LogCaptureFixture) -> None:
    check_same_run(replay, now=RECORD)
    assert "replay: 1 weight files of organs have no sha256 in the manifest" in caplog.text


def test_a_voxel_that_differs_is_an_error(replay: Replay) -> None:
    masks = dict(RECORD.outcome.masks)
    check_same_masks(replay, masks=masks)
    masks[Tracer.FDG] = MaskFound(digest("another"), voxels=2, volume_ml=0.1, lesions=1)
    got = "got 2 voxels in 1 lesions instead of 0 in 0$"
    with pytest.raises(CaseError, match=f"^FDG mask: must be that of run.json, voxel for voxel, {got}"):
        check_same_masks(replay, masks=masks)


# ------------------------------------------------------------------------------------------------- which records can be


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            replace(RECORD, outcome=Outcome(OutcomeKind.REFUSED, "PSMA/PET.nii.gz: file is missing", {})),
            "^run.json outcome: must be masks to be replayed, got refused: PSMA/PET.nii.gz: file is missing$",
        ),
        (
            replace(RECORD, outcome=Outcome(OutcomeKind.FAILED, "SystemExit: 143", {})),
            "^run.json outcome: must be masks to be replayed, got failed: SystemExit: 143$",
        ),
        (
            replace(RECORD, outcome=replace(RECORD.outcome, masks={Tracer.FDG: RECORD.outcome.masks[Tracer.FDG]})),
            "^run.json outcome.masks: must be those of both tracers, got fdg$",
        ),
        (replace(RECORD, scans={}), "^run.json scans: must be those of both tracers, got none$"),
        (replace(RECORD, manifest=None), "^run.json: options and manifest must be there to be replayed, got null$"),
        (replace(RECORD, options=replace(OPTIONS, threads=0)), "^run.json options.threads: must be >= 1, got 0$"),
    ],
)
def test_a_record_that_cannot_be_replayed_is_refused(tmp_path: Path, record: RunRecord, message: str) -> None:
    write_record(record, tmp_path / "run.json")
    with pytest.raises(CaseError, match=message):
        read_replay(tmp_path / "run.json")


def test_what_was_asked_for_then_is_what_is_run(replay: Replay, tmp_path: Path) -> None:
    manifest = read_manifest(write_manifest(stand_in_models(tmp_path / "models"), mode=Mode.FAST, backend=Backend.AUTO))
    setting = Setting(manifest, OrganSource.GIVEN, torch.device("cpu"), time_limit_s=5.0)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        applied = replay.applied_to(setting)
        assert torch.get_num_threads() == RECORD.options.threads
    finally:
        torch.set_num_threads(threads)
    assert (applied.manifest.mode, applied.manifest.backend) == (Mode.EXACT, Backend.TORCH)
    assert (applied.organ_source, applied.time_limit_s) == (OrganSource.AUTO, None)
    assert applied.manifest.psma == setting.manifest.psma


def test_which_folds_ran_then_is_told(replay: Replay, tmp_path: Path) -> None:
    options = {"case_folder": tmp_path, "output": tmp_path / "output"}
    with recording(None, **options, replay=replay) as record:
        assert record.executed_then == RECORD.executed
    with recording(None, **options) as record:
        assert record.executed_then is None


def test_the_record_that_is_replayed_is_not_written_over(tmp_path: Path) -> None:
    write_record(RECORD, tmp_path / "run.json")
    again = read_replay(tmp_path / "run.json")
    for file in (None, tmp_path / "elsewhere.json", tmp_path / "x" / ".." / "run.json"):
        (tmp_path / "x").mkdir(exist_ok=True)
        with (
            pytest.raises(CaseError, match="the record that is replayed must not lie where this run's goes"),
            recording(file, case_folder=tmp_path, output=tmp_path, replay=again),
        ):
            pass
        assert read_record(tmp_path / "run.json") == RECORD


# --------------------------------------------------------------------------------------------- the whole program, twice


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Tiny networks of two folds for PSMA, with organs for FDG."""
    folder = tmp_path_factory.mktemp("models")

    def member(name: str, architecture: Architecture, dataset_id: int, *, folds: tuple[int, ...], encoding: Any) -> Any:
        options = {"architecture": architecture, "dataset_id": dataset_id, "folds": folds, "encoding": encoding}
        return make_member(make_results(folder / "results", **options), folder / name, **options)

    members = {
        Tracer.PSMA: (member("psma_plain", Architecture.PLAIN, 801, folds=(0, 1), encoding=OrganEncoding.NONE),),
        Tracer.FDG: (member("fdg_binary", Architecture.RESENC_M, 912, folds=(0,), encoding=OrganEncoding.BINARY),),
    }
    return Models(folder=folder, members=members, organ_weights=stand_in_models(folder).organ_weights)


def run(case: Path, output: Path, manifest: Path, *options: str, environment: dict[str, str] | None = None) -> str:
    """Run a case in a process of its own; returns the last line of stderr, "" for a good run."""
    command = [sys.executable, PROGRAM, "--input", case, "--output", output, "--manifest", manifest, "--device", "cpu"]
    done = subprocess.run(
        [*command, *options],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    last = done.stderr.strip().rpartition("\n")[2]
    assert (done.returncode == 0) == (last == ""), done.stdout + done.stderr
    return last


def voxels(output: Path) -> dict[Tracer, bytes]:
    return {tracer: sitk.GetArrayFromImage(sitk.ReadImage(mask_file(output, tracer))).tobytes() for tracer in Tracer}


@pytest.fixture(scope="module")
def recorded(models: Models, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A case, its manifest, and the output of a run in a mode that is not the manifest's."""
    folder = tmp_path_factory.mktemp("recorded")
    case, manifest = write_case(folder / "case"), write_manifest(models, mode=Mode.EXACT, mirroring=True)
    assert run(case, folder / "output", manifest, "--mode", "fast") == ""
    return case, manifest, folder / "output"


def test_the_same_run_again_gives_the_same_voxels(recorded: tuple[Path, Path, Path], tmp_path: Path) -> None:
    case, manifest, output = recorded

    assert run(case, tmp_path / "output", manifest, "--replay", str(output / "run.json")) == ""

    assert voxels(tmp_path / "output") == voxels(output)
    then, now = (read_record(folder / "run.json") for folder in (output, tmp_path / "output"))
    assert any(mask.voxels for mask in then.outcome.masks.values())
    assert now.outcome == then.outcome
    assert then.executed is not None
    assert now.executed is not None
    # With the clock running the first fold of each scan came first; the sums are the same.
    assert sorted(map(str, now.executed.fold_runs)) == sorted(map(str, then.executed.fold_runs))
    assert (now.options.mode, now.options.time_limit_s) == (Mode.FAST, None)


def test_another_mask_than_recorded_is_an_error_and_none_is_written(
    recorded: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    case, manifest, output = recorded
    content = json.loads((output / "run.json").read_text())
    content["outcome"]["masks"]["psma"]["voxels_sha256"] = "0" * 64
    (tmp_path / "run.json").write_text(json.dumps(content))

    last = run(case, tmp_path / "output", manifest, "--replay", str(tmp_path / "run.json"))

    assert last.startswith("PSMA mask: must be that of run.json, voxel for voxel, got ")
    assert list((tmp_path / "output").rglob("*.mha")) == []
    assert read_record(tmp_path / "output" / "run.json").outcome.kind is OutcomeKind.REFUSED


def test_a_changed_input_is_refused(recorded: tuple[Path, Path, Path], tmp_path: Path) -> None:
    case, manifest, output = recorded
    other = Path(shutil.copytree(case, tmp_path / "case"))
    pet = sitk.ReadImage(other / "FDG" / "PET.nii.gz")
    pet[3, 4, 5] = pet[3, 4, 5] + 0.25
    sitk.WriteImage(pet, other / "FDG" / "PET.nii.gz")

    last = run(other, tmp_path / "output", manifest, "--replay", str(output / "run.json"))

    then = sha256_of(case / "FDG" / "PET.nii.gz")[:12]
    now = sha256_of(other / "FDG" / "PET.nii.gz")[:12]
    rule = "run.json: a replay must run on what the recorded run ran on, got"
    assert last == f"{rule} FDG pet sha256 {now}... instead of {then}..."


def test_other_weights_are_refused(recorded: tuple[Path, Path, Path], models: Models, tmp_path: Path) -> None:
    case, manifest, output = recorded
    folder = models.folder
    shutil.copytree(folder / "psma_plain", folder / "psma_other", dirs_exist_ok=True)
    dataset = folder / "psma_other" / "dataset.json"
    before = sha256_of(dataset)
    dataset.write_text(dataset.read_text() + "\n")
    other = folder / "other.toml"
    text = manifest.read_text().replace(before, sha256_of(dataset), 1)
    other.write_text(text.replace('folder = "psma_plain"', 'folder = "psma_other"'))
    assert other.read_text() != manifest.read_text()

    last = run(case, tmp_path / "output", other, "--replay", str(output / "run.json"))

    assert f"manifest sha256 {sha256_of(other)[:12]}... instead of {sha256_of(manifest)[:12]}...; member" in last
    assert f"member psma_plain dataset.json sha256 {sha256_of(dataset)[:12]}... instead of {before[:12]}..." in last


def test_another_number_of_threads_and_another_version_are_refused(
    recorded: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    case, manifest, output = recorded
    content = json.loads((output / "run.json").read_text())
    content["versions"]["scipy"] = "1.0"
    content["environment"]["MKL_NUM_THREADS"] = "77"
    (tmp_path / "run.json").write_text(json.dumps(content))
    last = run(
        case,
        tmp_path / "output",
        manifest,
        "--replay",
        str(tmp_path / "run.json"),
        environment={"MKL_NUM_THREADS": "1"},
    )
    assert re.search(r" got scipy \d[\d.]+ instead of 1\.0; MKL_NUM_THREADS 1 instead of 77$", last)


def test_a_refused_case_leaves_its_record_and_that_cannot_be_replayed(
    recorded: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    case, manifest, _ = recorded
    other = Path(shutil.copytree(case, tmp_path / "case"))
    (other / "PSMA" / "CT.nii.gz").unlink()

    refusal = run(other, tmp_path / "output", manifest)

    assert [path.name for path in (tmp_path / "output").rglob("*") if path.is_file()] == ["run.json"]
    assert read_record(tmp_path / "output" / "run.json").outcome.error == refusal
    last = run(case, tmp_path / "again", manifest, "--replay", str(tmp_path / "output" / "run.json"))
    assert last == f"run.json outcome: must be masks to be replayed, got refused: {refusal}"
    assert np.all([not path.is_file() for path in (tmp_path / "again").rglob("*")])
