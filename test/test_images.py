"""Reading one image file: what is read, and the one line for everything that is not."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from cases import PET_GRIDS, pet_image
from petct.errors import CaseError
from petct.geometry import grid_of, to_array, to_image
from petct.images import check_regular, is_image_file, read_image

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
        CaseError, match=r"^PET: image file must be whole, got (\d+) of \d+ bytes of compressed voxels$"
    ):
        read_image(path, where="PET")


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


@pytest.mark.parametrize("name", ["a.mha", "a.nii", "a.nii.gz"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(CaseError, match="^PET: must be a regular file, got a pipe or a device$"):
        read_image(tmp_path / name, where="PET")


def test_what_is_there_must_be_a_regular_file(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link", "nothing at all"):
        check_regular(tmp_path / name, where="PET")
    (tmp_path / "folder").mkdir()
    with pytest.raises(CaseError, match="^PET: must be a regular file, got a folder$"):
        check_regular(tmp_path / "folder", where="PET")


def test_a_nifti_file_beside_its_compressed_twin_is_refused(tmp_path):
    # ITK reads the header of a.nii.gz and then looks for the voxels in a.nii.
    _write(tmp_path / "a.nii.gz")
    other = sitk.GetImageFromArray(np.zeros(GRID.shape_zyx, dtype=np.float32))
    sitk.WriteImage(other, tmp_path / "a.nii")
    assert not to_array(sitk.ReadImage(tmp_path / "a.nii.gz")).any()
    with pytest.raises(CaseError, match=r"^PET: must not lie beside a\.nii, which ITK takes for the same image$"):
        read_image(tmp_path / "a.nii.gz", where="PET")
    assert not to_array(read_image(tmp_path / "a.nii", where="PET")).any()


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_voxels_that_are_no_numbers_are_refused_where_itk_reads_0(tmp_path, name):
    image = pet_image()
    image[2, 3, 4] = float("nan")
    sitk.WriteImage(image, tmp_path / name)
    assert sitk.ReadImage(tmp_path / name)[2, 3, 4] == 0.0
    with pytest.raises(CaseError, match="^PET: every voxel must be finite, got nan or infinite voxels$"):
        read_image(tmp_path / name, where="PET")


@pytest.mark.parametrize(
    ("spacing_mm", "origin_mm", "message"),
    [
        ((0.01, 5, 3), (0, 0, 0), r"spacing must be 0\.02-100 mm, got \(0\.01, 5\.0, 3\.0\) mm \(x, y, z\)"),
        ((4, 101, 3), (0, 0, 0), r"spacing must be 0\.02-100 mm, got \(4\.0, 101\.0, 3\.0\) mm \(x, y, z\)"),
        ((4, 5, 3), (0, -2e5, 0), r"origin must lie within 100000 mm, got \(0\.0, -200000\.0, 0\.0\) mm \(x, y, z\)"),
    ],
)
def test_a_grid_that_no_scanner_has_is_refused(tmp_path, spacing_mm, origin_mm, message):
    image = pet_image()
    image.SetSpacing(spacing_mm)
    image.SetOrigin(origin_mm)
    sitk.WriteImage(image, tmp_path / "a.mha")
    with pytest.raises(CaseError, match=f"^PET: {message}$"):
        read_image(tmp_path / "a.mha", where="PET")


def test_an_image_longer_than_any_scanner_is_refused(tmp_path):
    image = sitk.Image([3, 4, 60], sitk.sitkFloat32)
    image.SetSpacing((4.0, 5.0, 90.0))
    sitk.WriteImage(image, tmp_path / "a.mha")
    with pytest.raises(
        CaseError, match=r"^PET: image must be at most 5000 mm long, got 12 x 20 x 5400 mm \(x, y, z\)$"
    ):
        read_image(tmp_path / "a.mha", where="PET")


def test_what_counts_as_an_image_file(tmp_path):
    for name in ("a.mha", "a.nii", "a.nii.gz", ".DS_Store", "._a.mha", "a.mhd", "a.json", "mha"):
        (tmp_path / name).touch()
    (tmp_path / "folder.mha").mkdir()
    (tmp_path / "dangling.mha").symlink_to("nowhere")
    assert sorted(path.name for path in tmp_path.iterdir() if is_image_file(path)) == ["a.mha", "a.nii", "a.nii.gz"]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "<u2", ">i2", "<i4", ">u4", "<f4", ">f4", "<f8"])
def test_voxels_are_those_that_itk_reads(tmp_path: Path, dtype: str, suffix: str) -> None:
    path = tmp_path / f"image{suffix}"
    voxels = np.random.default_rng(5).integers(0, 100, size=(7, 11, 13)).astype(dtype)
    if suffix == ".mha":
        is_big = dtype.startswith(">")
        names = {"u1": "UCHAR", "i1": "CHAR", "u2": "USHORT", "i2": "SHORT", "i4": "INT", "u4": "UINT"}
        name = names.get(dtype.strip("<>"), "FLOAT" if dtype.endswith("4") else "DOUBLE")
        header = (
            "ObjectType = Image\nNDims = 3\nBinaryData = True\n"
            f"BinaryDataByteOrderMSB = {is_big}\nCompressedData = False\n"
            "TransformMatrix = 0 1 0 -1 0 0 0 0 1\nOffset = 3 -4 5\nElementSpacing = 1.5 2 2.5\nDimSize = 13 11 7\n"
            f"ElementType = MET_{name}\nElementDataFile = LOCAL\n"
        )
        path.write_bytes(header.encode() + voxels.tobytes())
    else:
        affine = np.array([[0.0, 2.0, 0.0, 3.0], [-1.5, 0.0, 0.0, -4.0], [0.0, 0.0, 2.5, 5.0], [0.0, 0.0, 0.0, 1.0]])
        header = nib.Nifti1Header(endianness=dtype[0] if dtype[0] in "<>" else "<")
        header.set_data_dtype(dtype)
        nib.Nifti1Image(voxels.transpose(2, 1, 0), affine, header).to_filename(path)
    expected = sitk.ReadImage(path)
    image = read_image(path, where="image")
    assert image.GetPixelID() == expected.GetPixelID()
    assert grid_of(image) == grid_of(expected)
    np.testing.assert_array_equal(to_array(image), to_array(expected))
    np.testing.assert_array_equal(to_array(image), voxels)


@pytest.mark.parametrize(("slope", "intercept"), [(0.25, 0.0), (1.0, -3.0), (2.0, 7.0)])
def test_a_scale_is_applied_as_by_itk(tmp_path: Path, slope: float, intercept: float) -> None:
    path = tmp_path / "scaled.nii.gz"
    stored = np.random.default_rng(6).integers(-50, 50, size=(5, 8, 9)).astype(np.int16)
    image = nib.Nifti1Image(stored.transpose(2, 1, 0), np.diag([2.0, 3.0, 4.0, 1.0]))
    image.header.set_slope_inter(slope, intercept)
    nib.Nifti1Image(image.dataobj, image.affine, image.header).to_filename(path)
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[112:120] = struct.pack("<2f", slope, intercept)
    content[352:] = stored.tobytes()
    path.write_bytes(gzip.compress(bytes(content)))
    np.testing.assert_array_equal(to_array(read_image(path, where="scaled")), stored * slope + intercept)
