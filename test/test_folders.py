"""The training set's layout, and telling the two layouts apart."""

from __future__ import annotations

import json
import logging
import os
import shutil

import numpy as np
import pytest
import SimpleITK as sitk

from cases import CT_GRIDS, PET_GRIDS, ct_image, organ_image, pet_image, write_input, write_training_case
from petct.case import Tracer
from petct.errors import CaseError
from petct.folders import read_case
from petct.geometry import grid_of, to_array


@pytest.fixture(autouse=True)
def _log_everything(caplog):
    caplog.set_level(logging.INFO)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mha"])
@pytest.mark.parametrize("has_organs", [True, False])
def test_a_case_is_read_without_a_word(tmp_path, caplog, capfd, suffix, has_organs):
    folder = write_training_case(tmp_path / "train_0001", has_organs=has_organs, suffix=suffix)
    case = read_case(folder)
    assert case.name == "train_0001"
    for tracer, scan, name in ((Tracer.PSMA, case.psma, "PSMA"), (Tracer.FDG, case.fdg, "FDG")):
        assert scan.tracer is tracer
        assert scan is case.scan(tracer)
        assert scan.suv_threshold == {"PSMA": 3.0, "FDG": 2.41}[name]
        for image, expected, grid in (
            (scan.pet, pet_image(name), PET_GRIDS[name]),
            (scan.ct, ct_image(name), CT_GRIDS[name]),
        ):
            assert np.array_equal(to_array(image), to_array(expected))
            assert np.allclose(grid_of(image).corners_mm_xyz(), grid.corners_mm_xyz(), atol=0.001)
        if has_organs:
            assert np.array_equal(to_array(scan.organs), to_array(organ_image(name)))
            assert scan.organs.GetPixelID() == sitk.sitkUInt8
        else:
            assert scan.organs is None
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_truth_and_registration_are_left_alone(tmp_path):
    folder = write_training_case(tmp_path / "case")
    (folder / "PSMA/TTB.nii.gz").write_bytes(b"no image")
    (folder / "FDG/rigid.tfm").write_text("no transform")
    read_case(folder)
    (folder / "FDG/rigid.tfm").unlink()
    read_case(folder)


def test_a_bare_number_is_a_threshold_here_too(tmp_path):
    folder = write_training_case(tmp_path / "case")
    (folder / "FDG/threshold.json").write_text("4.2")
    assert read_case(folder).fdg.suv_threshold == 4.2


def test_the_current_folder_has_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(write_training_case(tmp_path / "train_0042"))
    assert read_case(type(tmp_path)(".")).name == "train_0042"


@pytest.mark.parametrize("missing", ["PSMA/PET.nii.gz", "PSMA/CT.nii.gz", "FDG/PET.nii.gz", "FDG/threshold.json"])
def test_a_missing_file_is_refused(tmp_path, missing):
    folder = write_training_case(tmp_path / "case")
    (folder / missing).unlink()
    with pytest.raises(CaseError, match=f"^{missing}: file is missing$"):
        read_case(folder)


def test_everything_is_there_before_anything_is_read(tmp_path):
    folder = write_training_case(tmp_path / "case")
    (folder / "PSMA/PET.nii.gz").write_bytes(b"damaged")
    shutil.rmtree(folder / "FDG")
    with pytest.raises(CaseError, match=r"^FDG/PET\.nii\.gz: file is missing$"):
        read_case(folder)


def test_two_files_for_one_image_are_refused(tmp_path):
    folder = write_training_case(tmp_path / "case")
    shutil.copy(folder / "FDG/CT.nii.gz", folder / "FDG/CT.mha")
    with pytest.raises(CaseError, match=r"^FDG/CT: must be one file, got FDG/CT\.mha, FDG/CT\.nii\.gz$"):
        read_case(folder)


@pytest.mark.parametrize(
    ("file", "image", "message"),
    [
        ("FDG/PET", lambda: pet_image("FDG") * 0.0, r"^FDG/PET\.nii\.gz: PET must have voxels above 0 SUV, got"),
        (
            "FDG/PET",
            lambda: pet_image("FDG") - 5.0,
            r"^FDG/PET\.nii\.gz: PET must not be negative beyond noise \(-1\.5 SUV\)",
        ),
        (
            "PSMA/CT",
            lambda: ct_image("FDG"),
            r"^PSMA/CT\.nii\.gz: CT must cover at least 5% of PSMA/PET\.nii\.gz, got 0\.0%$",
        ),
        (
            "PSMA/CT",
            lambda: sitk.JoinSeries([ct_image(), ct_image()]),
            r"^PSMA/CT\.nii\.gz: image must be 3D, got 4D, \(18, 21, 14, 2\) voxels$",
        ),
        (
            "PSMA/totseg_24",
            lambda: organ_image("FDG"),
            r"^PSMA/totseg_24\.nii\.gz: grid must match PSMA/CT\.nii\.gz, got \(22, 17, 15\) voxels \(x, y, z\)",
        ),
        (
            "FDG/totseg_24",
            lambda: organ_image("FDG", pixel=np.int16) + 1,
            r"^FDG/totseg_24\.nii\.gz: organ labels must be within 0-117, got 1 to 118$",
        ),
    ],
)
def test_a_bad_image_is_refused_by_its_file(tmp_path, file, image, message):
    folder = write_training_case(tmp_path / "case")
    sitk.WriteImage(image(), folder / f"{file}.nii.gz")
    with pytest.raises(CaseError, match=message):
        read_case(folder)


def test_a_cut_off_image_is_refused(tmp_path):
    folder = write_training_case(tmp_path / "case")
    content = (folder / "FDG/PET.nii.gz").read_bytes()
    (folder / "FDG/PET.nii.gz").write_bytes(content[: len(content) // 2])
    with pytest.raises(
        CaseError, match=r"^FDG/PET\.nii\.gz: image file must be whole and undamaged, got Compressed file ended"
    ):
        read_case(folder)


def test_a_bad_threshold_is_refused_by_its_file(tmp_path):
    folder = write_training_case(tmp_path / "case")
    (folder / "FDG/threshold.json").write_text(json.dumps({"suv_threshold": 0}))
    with pytest.raises(CaseError, match="^FDG/threshold.json: SUV threshold must be > 0, got 0$"):
        read_case(folder)


# Layouts


def test_both_layouts_in_one_folder_are_refused(tmp_path):
    folder = write_input(tmp_path)
    shutil.move(tmp_path / "training" / "PSMA", folder)
    with pytest.raises(
        CaseError, match="input: input must hold one case, in the platform's layout or the training set's, got both$"
    ):
        read_case(folder)


@pytest.mark.parametrize("leftover", ["inputs.json", "images", "fdg-pet-suv-threshold.json"])
def test_any_part_of_the_platform_s_layout_is_taken_for_it(tmp_path, leftover):
    folder = write_input(tmp_path)
    for path in folder.iterdir():
        if path.name != leftover:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(CaseError, match="^psma-p(et|et-suv-threshold)"):
        read_case(folder)


@pytest.mark.parametrize(
    ("names", "got"), [(["train_0001", "train_0002", ".git"], "train_0001, train_0002"), ([], "an empty folder")]
)
def test_neither_layout_is_refused_with_what_is_there(tmp_path, names, got):
    for name in names:
        (tmp_path / name).mkdir()
    with pytest.raises(CaseError, match=f": input must hold inputs.json and images/, or PSMA/ and FDG/, got {got}$"):
        read_case(tmp_path)


def test_what_is_no_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CaseError, match="file: input must be a folder, got a file$"):
        read_case(tmp_path / "file")
    with pytest.raises(CaseError, match="gone: input must be a folder, got nothing$"):
        read_case(tmp_path / "gone")


def test_a_folder_that_may_not_be_looked_into_is_refused(tmp_path, monkeypatch):
    # Root may look into every folder, so the refusal is the operating system's by proxy.
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    folder = tmp_path / "case"
    folder.mkdir()
    monkeypatch.setattr(os, "listdir", refuse)
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(CaseError, match="case: input must be readable, got .*Permission denied"):
        read_case(folder)
