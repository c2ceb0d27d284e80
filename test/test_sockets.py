"""The platform's layout: inputs.json in every form it comes in, and the files that it points to."""

from __future__ import annotations

import json
import logging
import shutil

import numpy as np
import pytest
import SimpleITK as sitk

from cases import CT_GRIDS, PET_GRIDS, organ_image, write_input
from petct.case import Tracer
from petct.errors import CaseError
from petct.folders import read_case
from petct.geometry import grid_of, to_array
from petct.sockets import find_socket_files
from platform_case import SocketKey

PLACES = {
    "psma-ct-image": "images/psma-ct",
    "psma-ct-image-organ-segmentation": "images/psma-ct-organ-segmentation",
    "psma-pet-ga-68": "images/psma-pet-ga-68",
    "psma-pet-suv-threshold": "psma-pet-suv-threshold.json",
    "fdg-ct-image": "images/fdg-ct",
    "fdg-ct-image-organ-segmentation": "images/fdg-ct-organ-segmentation",
    "fdg-pet": "images/fdg-pet",
    "fdg-pet-suv-threshold": "fdg-pet-suv-threshold.json",
}


@pytest.fixture(autouse=True)
def _log_everything(caplog):
    caplog.set_level(logging.INFO)


def _edit_inputs(folder, edit):
    """Rewrite inputs.json by a function of the dictionary of entries by slug."""
    path = folder / "inputs.json"
    entries = {entry["socket"]["slug"]: entry for entry in json.loads(path.read_text())}
    edit(entries)
    path.write_text(json.dumps(list(entries.values())))


def _move(folder, slug, place):
    """Put a socket elsewhere, in inputs.json and on disk."""

    def edit(entries):
        for key in ("socket", "interface"):
            entries[slug][key]["relative_path"] = place

    _edit_inputs(folder, edit)
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    (folder / PLACES[slug]).rename(folder / place)


def _check_case(case, *, has_organs=True):
    for scan, name in ((case.psma, "PSMA"), (case.fdg, "FDG")):
        for grid, expected in ((grid_of(scan.pet), PET_GRIDS[name]), (grid_of(scan.ct), CT_GRIDS[name])):
            assert grid.shape_zyx == expected.shape_zyx
            assert np.allclose(grid.corners_mm_xyz(), expected.corners_mm_xyz(), atol=0.001)
        assert scan.suv_threshold == {"PSMA": 3.0, "FDG": 2.41}[name]
        assert to_array(scan.pet)[3, 2, 4] == 20.0
        if has_organs:
            assert np.array_equal(to_array(scan.organs), to_array(organ_image(name)))
        else:
            assert scan.organs is None


def test_an_organ_socket_that_is_listed_and_empty_is_said_to_be(tmp_path, caplog):
    folder = write_input(tmp_path / "input")
    for file in (folder / PLACES["fdg-ct-image-organ-segmentation"]).iterdir():
        file.unlink()
    case = read_case(folder)
    assert case.fdg.organs is None
    assert case.psma.organs is not None
    assert "inputs.json: fdg-ct-image-organ-segmentation is listed and holds no image; the organs are computed" in (
        caplog.messages
    )


@pytest.mark.parametrize("key", SocketKey)
@pytest.mark.parametrize("has_organs", [True, False])
@pytest.mark.parametrize("has_registration", [True, False])
def test_every_form_of_a_healthy_input_is_read_without_a_warning(
    tmp_path, caplog, capfd, key, has_organs, has_registration
):
    folder = write_input(tmp_path, key=key, has_organs=has_organs, has_registration=has_registration)
    capfd.readouterr()
    case = read_case(folder)
    _check_case(case, has_organs=has_organs)
    assert case.name == "input"
    assert (case.psma.tracer, case.fdg.tracer) == (Tracer.PSMA, Tracer.FDG)
    assert not caplog.records
    assert capfd.readouterr().err == ""


def test_input_may_be_a_link(tmp_path):
    (tmp_path / "mounted").symlink_to(write_input(tmp_path))
    _check_case(read_case(tmp_path / "mounted"))


def test_relative_path_is_where_a_socket_lies(tmp_path, caplog):
    folder = write_input(tmp_path)
    _move(folder, "fdg-pet", "images/elsewhere/fdg")
    _move(folder, "psma-pet-suv-threshold", "values/psma.json")
    _check_case(read_case(folder))
    files = find_socket_files(folder)
    assert files[Tracer.FDG].pet.where.startswith("images/elsewhere/fdg/")
    assert files[Tracer.PSMA].threshold.where == "values/psma.json"
    assert not caplog.records


def test_socket_wins_over_interface_and_null_does_not_count(tmp_path, caplog):
    folder = write_input(tmp_path)

    def edit(entries):
        entries["fdg-pet"]["interface"] = {"slug": "fdg-pet", "relative_path": "images/old"}
        entries["psma-pet-ga-68"]["socket"] = None

    _edit_inputs(folder, edit)
    _check_case(read_case(folder))
    assert not caplog.records


def test_sockets_that_nobody_asked_for_are_ignored(tmp_path, caplog):
    folder = write_input(tmp_path)
    extra = {"slug": "patient-age", "relative_path": "patient-age.json"}
    _edit_inputs(folder, lambda entries: entries.update({"patient-age": {"socket": extra, "value": 71}}))
    _check_case(read_case(folder))
    assert not caplog.records


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "inputs.json: file must be JSON in UTF-8, got FileNotFoundError"),
        (b"", "inputs.json: file must be JSON in UTF-8, got JSONDecodeError"),
        (b'[{"socket": ', "inputs.json: file must be JSON in UTF-8, got JSONDecodeError"),
        (b'["\xff\xfe"]', "inputs.json: file must be JSON in UTF-8, got UnicodeDecodeError"),
        (b"[" * 100_000, "inputs.json: file must be JSON in UTF-8, got RecursionError"),
        (b"{}", "inputs.json: must be a list of sockets, got dict"),
        (b"null", "inputs.json: must be a list of sockets, got NoneType"),
        (b"[]", "inputs.json: psma-pet-ga-68, psma-ct-image, psma-pet-suv-threshold, fdg-pet, "),
        (b"[3, null, {}]", "inputs.json: entry must name a slug and a relative_path, got {}; it is ignored"),
        (
            b'[{"socket": "fdg-pet"}]',
            "inputs.json: entry must name a slug and a relative_path, got {'socket': 'fdg-pet'}",
        ),
        (b'[{"socket": {"slug": "fdg-pet"}}]', "inputs.json: entry must name a slug and a relative_path, got"),
        (
            b'[{"socket": {"slug": 3, "relative_path": 4}}]',
            "inputs.json: entry must name a slug and a relative_path, got",
        ),
    ],
)
def test_an_odd_inputs_json_costs_a_warning(tmp_path, caplog, content, message):
    folder = write_input(tmp_path)
    (folder / "inputs.json").unlink()
    if content is not None:
        (folder / "inputs.json").write_bytes(content)
    _check_case(read_case(folder))
    assert message in caplog.text
    assert {record.levelname for record in caplog.records} == {"WARNING"}


@pytest.mark.parametrize("place", ["/etc", "../input/images/fdg-pet", "images/../../elsewhere", "images/\0"])
def test_a_place_outside_the_input_is_not_looked_at(tmp_path, caplog, place):
    folder = write_input(tmp_path)
    shutil.copytree(folder / "images/fdg-pet", tmp_path / "elsewhere")

    def edit(entries):
        entries["fdg-pet"]["socket"]["relative_path"] = place

    _edit_inputs(folder, edit)
    assert find_socket_files(folder)[Tracer.FDG].pet.where.startswith("images/fdg-pet/")
    assert "inputs.json: fdg-pet: relative_path must stay inside the input folder, got " in caplog.text


@pytest.mark.parametrize("slug", PLACES)
def test_a_socket_that_is_missing_is_refused_unless_it_is_an_organ_map(tmp_path, slug):
    folder = write_input(tmp_path)
    gone = folder / PLACES[slug]
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    if slug.endswith("organ-segmentation"):
        assert (read_case(folder).scan(Tracer(slug.split("-")[0]))).organs is None
        return
    message = (
        f"^{slug}: file {PLACES[slug]} is missing$"
        if slug.endswith("threshold")
        else rf"^{slug}: {PLACES[slug]} must hold one image \(\.mha, \.nii\.gz, \.nii\), got nothing$"
    )
    with pytest.raises(CaseError, match=message):
        read_case(folder)


def test_a_folder_without_an_image_says_what_it_holds(tmp_path):
    folder = write_input(tmp_path)
    (image,) = (folder / "images/fdg-ct").iterdir()
    image.rename(image.with_name("ct.dcm"))
    with pytest.raises(CaseError, match=r"^fdg-ct-image: images/fdg-ct must hold one image .*, got ct\.dcm$"):
        read_case(folder)


@pytest.mark.parametrize("slug", ["psma-pet-ga-68", "fdg-ct-image-organ-segmentation"])
def test_two_images_in_a_socket_are_refused(tmp_path, slug):
    folder = write_input(tmp_path)
    (image,) = (folder / PLACES[slug]).iterdir()
    shutil.copy(image, image.with_name("a.mha"))
    with pytest.raises(CaseError, match=rf"^{slug}: {PLACES[slug]} must hold one image, got 2: .*a\.mha"):
        read_case(folder)


def test_hidden_files_do_not_count(tmp_path):
    folder = write_input(tmp_path)
    (folder / "images/fdg-pet/.DS_Store").write_bytes(b"x")
    (folder / "images/fdg-pet/._pet.mha").write_bytes(b"x")
    _check_case(read_case(folder))


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
def test_an_image_may_be_nifti(tmp_path, suffix):
    folder = write_input(tmp_path)
    (image,) = (folder / "images/psma-ct").iterdir()
    sitk.WriteImage(sitk.ReadImage(image), image.with_name("ct" + suffix))
    image.unlink()
    _check_case(read_case(folder))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("-1.0", "^psma-pet-suv-threshold.json: SUV threshold must be > 0, got -1.0$"),
        ("NaN", "^psma-pet-suv-threshold.json: SUV threshold must be finite, got nan$"),
        ("true", "^psma-pet-suv-threshold.json: SUV threshold must be a number, got True$"),
        ("three", "^psma-pet-suv-threshold.json: file must be JSON in UTF-8, got JSONDecodeError: "),
    ],
)
def test_a_bad_threshold_is_refused_by_its_file(tmp_path, content, message):
    folder = write_input(tmp_path)
    (folder / "psma-pet-suv-threshold.json").write_text(content)
    with pytest.raises(CaseError, match=message):
        read_case(folder)


def test_a_threshold_may_be_an_object(tmp_path):
    folder = write_input(tmp_path)
    (folder / "fdg-pet-suv-threshold.json").write_text('\ufeff{"suv_threshold": 2.41}', encoding="utf-8")
    _check_case(read_case(folder))


def test_the_scan_s_checks_are_made_and_name_the_files(tmp_path):
    folder = write_input(tmp_path)
    (organs,) = (folder / "images/fdg-ct-organ-segmentation").iterdir()
    (pet,) = (folder / "images/fdg-pet").iterdir()
    sitk.WriteImage(sitk.Cast(sitk.ReadImage(pet), sitk.sitkUInt8), organs)
    message = r"^images/fdg-ct-organ-segmentation/\w.*\.mha: grid must match images/fdg-ct/\w.*\.mha, got \(10, 8, 12\)"
    with pytest.raises(CaseError, match=message):
        read_case(folder)
