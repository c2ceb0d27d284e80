"""The reference way beside our own program, and nnU-Net's own command inside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

import benchmark.reference as reference
from benchmark.reference import outline, predict_probabilities
from benchmark.reference_channels import CASE_ID, read_scans, write_channels
from benchmark.unpack import unpack_manifest
from benchmark.unpacked import FILE_ENDING, UnpackedMember
from benchmark_case import CLIP, THRESHOLDS_SUV, write_benchmark_case, write_benchmark_manifest
from evaluation.overlap import dice
from inference import segment_case
from petct.case import Tracer
from petct.channels import ClipHU, OrganEncoding, build_channels
from petct.errors import CaseError
from petct.folders import read_case
from petct.geometry import check_same_grid, grid_of, resample_labels, to_array
from petct.labels import Label
from petct.manifest import TracerSettings, read_manifest
from petct.organs import Organ, collapse
from petct.output import mask_file
from postprocessing.regrow import regrow
from segmentation.organ_maps import OrganSource

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def case_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_benchmark_case(tmp_path_factory.mktemp("case") / "train_0001")


def test_its_masks_are_those_of_our_program(case_folder: Path, tmp_path: Path) -> None:
    manifest_file = write_benchmark_manifest(tmp_path / "models")
    manifest = read_manifest(manifest_file)
    unpack_manifest(manifest, folder=tmp_path / "unpacked")
    command = [sys.executable, "-m", "benchmark.reference", "--input", str(case_folder), "--device", "cpu"]
    command += ["--output", str(tmp_path / "out"), "--manifest", str(manifest_file)]
    command += ["--models", str(tmp_path / "unpacked"), "--timings", str(tmp_path / "timings.json")]
    # What a user has set for nnU-Net elsewhere does not reach it.
    environment = os.environ | {"nnUNet_results": "/nowhere", "nnUNet_compile": "true"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

    case = read_case(case_folder)
    ours = segment_case(case, manifest=manifest, organ_source=OrganSource.GIVEN, device=torch.device("cpu"))
    for tracer in Tracer:
        image = sitk.ReadImage(mask_file(tmp_path / "out", tracer))
        assert image.GetPixelID() == sitk.sitkUInt8
        check_same_grid(grid_of(image), grid_of(case.scan(tracer).pet), where="reference", name="the PET")
        mask, expected = to_array(image), ours[tracer].ttb
        assert expected.sum() > 200
        assert (mask != expected).mean() < 1e-4
        assert dice(mask, truth=expected) > 0.999

    timings = json.loads((tmp_path / "timings.json").read_text())
    assert [(run["tracer"], run["member"], run["folds"]) for run in timings["members"]] == [
        ("psma", "soft", 1),
        ("fdg", "masks", 2),
    ]
    assert timings["stages_s"]["network"] == pytest.approx(sum(run["network_s"] for run in timings["members"]))
    walls_s = sum(run["wall_s"] for run in timings["members"])
    assert timings["stages_s"]["network"] + timings["stages_s"]["nnunet"] == pytest.approx(walls_s)
    assert sum(timings["stages_s"].values()) <= timings["total_s"]
    assert timings["peak_gpu_mib"] is None or torch.cuda.is_available()


@pytest.mark.parametrize("tracer", list(Tracer))
@pytest.mark.parametrize(
    ("encoding", "clip", "tolerance"),
    [(OrganEncoding.NONE, CLIP, 1e-6), (OrganEncoding.BINARY, None, 1e-6), (OrganEncoding.SOFT_DISTANCE, None, 1e-5)],
)
def test_its_channels_are_ours(
    tracer: Tracer, encoding: OrganEncoding, clip: ClipHU | None, tolerance: float, case_folder: Path, tmp_path: Path
) -> None:
    scan = read_scans(case_folder)[tracer]
    write_channels(scan, encoding=encoding, clip=clip, folder=tmp_path / "in", file_ending=FILE_ENDING)
    files = sorted((tmp_path / "in").iterdir())
    names = [f"{CASE_ID}_{number:04d}.nii.gz" for number in range(2 if encoding is OrganEncoding.NONE else 10)]
    assert [file.name for file in files] == names

    ours = read_case(case_folder).scan(tracer)
    assert ours.organs is not None
    expected = build_channels(
        ours.pet,
        ct=ours.ct,
        organs=collapse(to_array(resample_labels(ours.organs, grid_of(ours.pet)))),
        suv_threshold=THRESHOLDS_SUV[tracer],
        encoding=encoding,
        clip=clip,
    )
    for file, channel in zip(files, expected, strict=True):
        written = sitk.ReadImage(file)
        check_same_grid(grid_of(written), grid_of(ours.pet), where=file.name, name="the PET")
        np.testing.assert_allclose(to_array(written), channel, rtol=1e-6, atol=tolerance)


def test_members_are_averaged_by_their_weights_and_share_channels(
    case_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = read_scans(case_folder)[Tracer.FDG]
    shape = (len(Label), *to_array(scan.pet).shape)
    values = {"a": 0.25, "b": 0.5, "c": 1.0}
    seen: dict[str, Path] = {}

    def stand_in(member: UnpackedMember, *, channels: Path, output: Path, **_: object) -> dict[str, object]:
        seen[member.name] = channels
        output.mkdir()
        np.savez_compressed(output / f"{CASE_ID}.npz", probabilities=np.full(shape, values[member.name], np.float32))
        return {"member": member.name}

    monkeypatch.setattr(reference, "run_nnunet", stand_in)
    members = [
        UnpackedMember("a", "fdg_0", (), OrganEncoding.NONE, None, 2.0),
        UnpackedMember("b", "fdg_1", (), OrganEncoding.BINARY, None, 1.0),
        UnpackedMember("c", "fdg_2", (), OrganEncoding.NONE, None, 1.0),
    ]
    mean, measured = predict_probabilities(scan, members=members, models=tmp_path, device="cpu")
    np.testing.assert_allclose(mean, np.full(shape, (2.0 * 0.25 + 1.0 * 0.5 + 1.0 * 1.0) / 4.0), atol=1e-6)
    assert [run["member"] for run in measured] == ["a", "b", "c"]
    assert seen["a"] == seen["c"] != seen["b"]


def settings(radius_mm: float) -> TracerSettings:
    return TracerSettings(
        members=(),
        ttb_probability=0.4,
        normal_probability=0.6,
        regrow_radius_mm=radius_mm,
        protected_organs=frozenset({Organ.LIVER, Organ.SPLEEN}),
        refinement=None,
    )


@pytest.mark.parametrize("radius_mm", [0.0, 4.4, 7.0])
def test_its_regrowing_is_ours(radius_mm: float, case_folder: Path) -> None:
    scan = read_scans(case_folder)[Tracer.PSMA]
    pet_suv, random = to_array(scan.pet), np.random.default_rng(3)
    probabilities = random.random((len(Label), *pet_suv.shape), dtype=np.float32)
    probabilities[Label.TTB] *= random.random(pet_suv.shape) < 0.03
    ttb, normal = probabilities[Label.TTB] > 0.4, probabilities[Label.NORMAL] > 0.6
    expected = regrow(
        ttb,
        normal=normal,
        pet_suv=pet_suv,
        organs=to_array(scan.organs),
        suv_threshold=scan.suv_threshold,
        radius_mm=radius_mm,
        protected={Organ.LIVER, Organ.SPLEEN},
        spacing_mm_zyx=grid_of(scan.pet).spacing_mm_zyx,
    )
    assert expected.sum() > 20
    assert (expected.sum() > (ttb & expected).sum()) == (radius_mm > 0)
    assert np.array_equal(outline(probabilities, scan=scan, settings=settings(radius_mm)), expected)


def test_nothing_grows_out_of_nothing(case_folder: Path) -> None:
    scan = read_scans(case_folder)[Tracer.FDG]
    probabilities = np.zeros((len(Label), *to_array(scan.pet).shape), dtype=np.float32)
    assert not outline(probabilities, scan=scan, settings=settings(7.0)).any()


def test_a_case_without_organ_maps_is_refused(tmp_path: Path) -> None:
    folder = write_benchmark_case(tmp_path / "train_0001")
    (folder / "FDG" / "totseg_24.nii.gz").unlink()
    with pytest.raises(CaseError, match="FDG organs: organ map must come with the case"):
        read_scans(folder)


def test_it_fails_when_nnunets_command_does(case_folder: Path, tmp_path: Path) -> None:
    member = UnpackedMember("lost", "nowhere", ("-d", "801", "-c", "3d_fullres"), OrganEncoding.NONE, None, 1.0)
    with pytest.raises(CaseError, match="member lost: nnUNetv2_predict must succeed, got exit code 1"):
        reference.run_nnunet(member, results=tmp_path, channels=tmp_path / "in", output=tmp_path / "out", device="cpu")
