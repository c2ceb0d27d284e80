"""Reading one image file: what is read, and the one line for everything that is not."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
import SimpleITK as sitk

from cases import PET_GRIDS, pet_image
from petct.errors import CaseError
from petct.geometry import grid_of, to_array, to_image
from petct.images import is_image_file, read_image
from petct.whole_file import check_metaimage_is_whole

GRID = PET_GRIDS["PSMA"]


def _write(path, *, compressed=True):
    sitk.WriteImage(pet_image(), path, useCompression=compressed)
    return path


def _edit_header(path, *, old, new):
    content = _write(path, compressed=False).read_bytes()
    start = content.index(old)
    end = content.index(b"\n", start)
    path.write_bytes(content[:start] + new + content[end:])
    return path


@pytest.mark.parametrize("name", ["a.mha", "a.nii.gz", "a.nii"])
@pytest.mark.parametrize("compressed", [True, False])
def test_voxels_and_grid_are_read(tmp_path, name, compressed):
    image = read_image(_write(tmp_path / name, compressed=compressed), where="PET")
    assert np.array_equal(to_array(image), to_array(pet_image()))
    assert image.GetSize() == (7, 9, 11)
    assert grid_of(image).spacing_mm_xyz == pytest.approx(GRID.spacing_mm_xyz)
    assert grid_of(image).origin_mm_xyz == pytest.approx(GRID.origin_mm_xyz, abs=1e-3)
    assert grid_of(image).direction == pytest.approx(GRID.direction, abs=1e-6)


def test_mha_keeps_the_grid_to_the_last_bit(tmp_path):
    assert grid_of(read_image(_write(tmp_path / "a.mha"), where="PET")) == GRID


def test_integers_stored_with_a_slope_are_read_scaled(tmp_path):
    path = tmp_path / "a.nii.gz"
    sitk.WriteImage(to_image(np.full(GRID.shape_zyx, 7, dtype=np.int16), GRID), path)
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[112:116] = np.float32(0.5).tobytes()  # scl_slope in the NIfTI header
    path.write_bytes(gzip.compress(content))
    assert set(np.unique(to_array(read_image(path, where="PET")))) == {3.5}


def test_a_left_handed_grid_is_read(tmp_path):
    image = pet_image()
    image.SetDirection((1, 0, 0, 0, 1, 0, 0, 0, -1))
    sitk.WriteImage(image, tmp_path / "a.mha")
    assert read_image(tmp_path / "a.mha", where="PET").GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, -1)


def test_nothing_is_said_on_stderr_when_a_nifti_is_read_and_written_as_mha(tmp_path, capfd):
    image = read_image(_write(tmp_path / "a.nii.gz"), where="PET")
    assert image.GetMetaDataKeys() == ()
    sitk.WriteImage(image, tmp_path / "b.mha")
    assert capfd.readouterr() == ("", "")


def test_itk_s_warnings_go_to_the_log_and_then_where_they_went_before(tmp_path, capfd, caplog):
    path = tmp_path / "a.nii.gz"
    sitk.WriteImage(pet_image(), path)
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[252:254] = np.int16(0).tobytes()  # qform_code: only the sform is left ...
    content[80:84] = np.float32(5.0).tobytes()  # ... and the voxel size along x, 4 mm, is not the sform's
    path.write_bytes(gzip.compress(content))
    read_image(path, where="PET")
    assert [record.getMessage() for record in caplog.records] == [f"PET: {path} has unexpected scales in sform"]
    assert capfd.readouterr() == ("", "")
    sitk.ReadImage(path)
    assert "unexpected scales in sform" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("name", "compressed"), [("a.mha", True), ("a.mha", False), ("a.nii.gz", True), ("a.nii", False)]
)
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.999])
def test_a_file_that_ends_early_is_refused(tmp_path, name, compressed, kept):
    path = _write(tmp_path / name, compressed=compressed)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(CaseError, match=r"^PET: [^\n]+, got [^\n]+$"):
        read_image(path, where="PET")


def test_a_metaimage_that_lacks_only_its_checksum_is_refused(tmp_path):
    path = _write(tmp_path / "a.mha")
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(
        CaseError, match="^PET: image file must be whole and undamaged, got compressed voxels end before"
    ):
        check_metaimage_is_whole(path, needed_bytes=4 * 11 * 9 * 7, where="PET")


@pytest.mark.parametrize("name", ["a.mha", "a.nii.gz"])
def test_a_damaged_compressed_file_is_refused(tmp_path, name):
    path = tmp_path / name
    noise = np.random.default_rng(3).random((31, 37, 41))  # larger than what is read for the header
    sitk.WriteImage(sitk.GetImageFromArray(noise), path, useCompression=True)
    content = bytearray(path.read_bytes())
    middle = len(content) * 2 // 3
    content[middle : middle + 16] = bytes(16)
    path.write_bytes(content)
    with pytest.raises(CaseError, match="^PET: image file must be whole and undamaged, got "):
        read_image(path, where="PET")


@pytest.mark.parametrize("name", ["a.mha", "a.nii.gz", "a.nii"])
def test_something_else_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\n" * 20)
    with pytest.raises(
        CaseError, match="^PET: image must be a MetaImage or NIfTI file with a whole header, got 860 bytes"
    ):
        read_image(tmp_path / name, where="PET")


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(CaseError, match="^PET: file must be readable, got No such file or directory$"):
        read_image(tmp_path / "a.mha", where="PET")


def test_voxels_in_another_file_are_refused(tmp_path):
    path = _edit_header(tmp_path / "a.mha", old=b"ElementDataFile", new=b"ElementDataFile = b.raw")
    (tmp_path / "b.raw").write_bytes(bytes(4 * 11 * 9 * 7))
    with pytest.raises(CaseError, match=r"^PET: voxels must be inside the \.mha file$"):
        read_image(path, where="PET")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"ElementSpacing", b"ElementSpacing = 0 5 3", r"^PET: spacing must be > 0 mm, got \(0\.0, 5\.0, 3\.0\)"),
        (b"ElementSpacing", b"ElementSpacing = -4 5 3", r"^PET: spacing must be > 0 mm, got \(-4\.0, 5\.0, "),
        (b"ElementSpacing", b"ElementSpacing = nan 5 3", "^PET: spacing must be > 0 mm, got "),
        (b"TransformMatrix", b"TransformMatrix = 1 0.01 0 0 1 0 0 0 1", "^PET: direction must be orthonormal, got "),
        (b"TransformMatrix", b"TransformMatrix = 1 0 0 1 0 0 0 0 1", "^PET: direction must be orthonormal, got "),
        (b"TransformMatrix", b"TransformMatrix = 2 0 0 0 1 0 0 0 1", "^PET: direction must be orthonormal, got "),
        (b"TransformMatrix", b"TransformMatrix = nan 0 0 0 1 0 0 0 1", "^PET: direction must be orthonormal, got "),
        (b"DimSize", b"DimSize = 0 9 11", r"^PET: image must have voxels along every axis, got \(0, 9, 11\)"),
        (b"DimSize", b"DimSize = 7 9 4000000", "^PET: image file must be whole, got 2772 of 1008000000 bytes"),
    ],
)
def test_a_header_that_describes_no_grid_is_refused(tmp_path, old, new, message):
    with pytest.raises(CaseError, match=message):
        read_image(_edit_header(tmp_path / "a.mha", old=old, new=new), where="PET")


def test_a_sheared_nifti_is_refused_in_one_line(tmp_path):
    path = tmp_path / "a.nii.gz"
    sitk.WriteImage(pet_image(), path)
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[252:254] = np.int16(0).tobytes()  # qform_code
    content[280:328] = np.float32([[4, 0.4, 0, 0], [0, 5, 0, 0], [0, 0, 3, 0]]).tobytes()  # srow_x, srow_y, srow_z
    path.write_bytes(gzip.compress(content))
    with pytest.raises(CaseError, match=r"^PET: direction must be orthonormal, got a NIfTI header with [^\n]+$"):
        read_image(path, where="PET")


@pytest.mark.parametrize("name", ["a.mha", "a.nii.gz"])
def test_only_three_dimensions_are_read(tmp_path, name):
    slice_of = pet_image()[:, :, 3]
    sitk.WriteImage(slice_of, tmp_path / name)
    with pytest.raises(CaseError, match=r"^PET: image must be 3D, got 2D, \(7, 9\) voxels$"):
        read_image(tmp_path / name, where="PET")
    sitk.WriteImage(sitk.JoinSeries([pet_image(), pet_image()]), tmp_path / name)
    with pytest.raises(CaseError, match=r"^PET: image must be 3D, got 4D, \(7, 9, 11, 2\) voxels$"):
        read_image(tmp_path / name, where="PET")


@pytest.mark.parametrize("name", ["a.mha", "a.nii.gz"])
@pytest.mark.parametrize("compose", [sitk.Compose, sitk.RealAndImaginaryToComplex])
def test_only_scalars_are_read(tmp_path, name, compose):
    sitk.WriteImage(compose(pet_image(), pet_image()), tmp_path / name)
    with pytest.raises(
        CaseError, match=r"^PET: image must be scalar, got 2 components \((vector|complex) of 32-bit float\)$"
    ):
        read_image(tmp_path / name, where="PET")


def test_what_counts_as_an_image_file(tmp_path):
    for name in ("a.mha", "a.nii", "a.nii.gz", ".DS_Store", "._a.mha", "a.mhd", "a.json", "mha"):
        (tmp_path / name).touch()
    (tmp_path / "folder.mha").mkdir()
    (tmp_path / "dangling.mha").symlink_to("nowhere")
    assert sorted(path.name for path in tmp_path.iterdir() if is_image_file(path)) == ["a.mha", "a.nii", "a.nii.gz"]
