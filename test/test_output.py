"""Masks: what is written, that it is read back, and that nothing is left when something fails."""

from __future__ import annotations

import os
import shutil
import tempfile

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from cases import PET_GRIDS
from petct import mask_check
from petct import output as output_module
from petct.case import Tracer
from petct.errors import CaseError
from petct.geometry import grid_of, to_array
from petct.mask_check import Uptake
from petct.output import prepare_output, write_masks

PSMA_GRID, FDG_GRID = PET_GRIDS["PSMA"], PET_GRIDS["FDG"]
PLACES = {Tracer.PSMA: "images/psma-pet-ttb/ttb.mha", Tracer.FDG: "images/fdg-pet-ttb/ttb.mha"}


def _mask(grid):
    mask = np.zeros(grid.shape_zyx, dtype=bool)
    mask[3, 2, 4] = mask[5:7, 1:4, 2:3] = True
    return mask


def _masks():
    return {Tracer.PSMA: (_mask(PSMA_GRID), PSMA_GRID), Tracer.FDG: (_mask(FDG_GRID), FDG_GRID)}


def _files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


@pytest.fixture(autouse=True)
def staging(tmp_path, monkeypatch):
    """Temporary files where the test can see whether any is left."""
    folder = tmp_path / "staging"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


def test_one_file_per_socket_on_the_pet_s_exact_grid(tmp_path, capfd):
    output = tmp_path / "output"
    prepare_output(output)
    paths = write_masks(_masks(), folder=output)
    assert paths == {tracer: output / place for tracer, place in PLACES.items()}
    assert _files(output) == ["images/fdg-pet-ttb/ttb.mha", "images/psma-pet-ttb/ttb.mha"]
    for tracer, grid in ((Tracer.PSMA, PSMA_GRID), (Tracer.FDG, FDG_GRID)):
        image = sitk.ReadImage(paths[tracer])
        assert image.GetPixelID() == sitk.sitkUInt8
        assert grid_of(image) == grid
        assert np.array_equal(to_array(image), _mask(grid).astype(np.uint8))
        assert b"CompressedData = True" in paths[tracer].read_bytes()[:1000]
        assert not paths[tracer].is_symlink()
    assert capfd.readouterr() == ("", "")


def test_an_empty_mask_is_written_like_any_other(tmp_path):
    masks = _masks() | {Tracer.FDG: (np.zeros(FDG_GRID.shape_zyx, dtype=bool), FDG_GRID)}
    path = write_masks(masks, folder=tmp_path)[Tracer.FDG]
    image = sitk.ReadImage(path)
    assert grid_of(image) == FDG_GRID
    assert image.GetPixelID() == sitk.sitkUInt8
    assert not to_array(image).any()


def test_the_files_are_readable_by_others(tmp_path):
    for path in write_masks(_masks(), folder=tmp_path).values():
        assert path.stat().st_mode & 0o444 == 0o444 & ~_umask()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_only_booleans_are_masks(tmp_path, dtype):
    masks = _masks() | {Tracer.FDG: (_mask(FDG_GRID).astype(dtype), FDG_GRID)}
    with pytest.raises(ValueError, match="mask must be boolean, got (uint8|float32)"):
        write_masks(masks, folder=tmp_path / "output")
    assert _files(tmp_path) == []


def test_a_mask_of_another_shape_is_refused(tmp_path):
    masks = _masks() | {Tracer.FDG: (_mask(PSMA_GRID), FDG_GRID)}
    with pytest.raises(
        ValueError, match=r"array must have the grid's shape \(12, 8, 10\) \(z, y, x\), got \(11, 9, 7\)"
    ):
        write_masks(masks, folder=tmp_path / "output")
    assert _files(tmp_path) == []


def test_both_or_none_when_the_second_cannot_be_placed(tmp_path):
    output = tmp_path / "output"
    (output / "images").mkdir(parents=True)
    (output / "images/fdg-pet-ttb").write_text("a file where a folder must be")
    with pytest.raises(CaseError, match=r"images/fdg-pet-ttb/ttb\.mha: mask must be writable, got File exists$"):
        write_masks(_masks(), folder=output)
    assert _files(output) == ["images/fdg-pet-ttb"]


@pytest.mark.parametrize("broken", ["copyfile", "replace"])
def test_no_part_of_a_file_is_left_when_the_disk_is_full(tmp_path, monkeypatch, broken):
    output = tmp_path / "output"
    copies = []

    def fail_the_second_time(source, target, *, original):
        copies.append(target)
        if len(copies) == 2:
            if broken == "copyfile":
                target.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        return original(source, target)

    module = shutil if broken == "copyfile" else os
    original = getattr(module, broken)
    monkeypatch.setattr(module, broken, lambda source, target: fail_the_second_time(source, target, original=original))
    with pytest.raises(CaseError, match=r"ttb\.mha: mask must be writable, got No space left on device$"):
        write_masks(_masks(), folder=output)
    assert len(copies) == 2
    assert _files(output) == []


def _uptake(*, lowest_suv=3.0, dtype=np.float32):
    """A PET of 3.0 SUV in every mask, at the threshold, but for one voxel of disease; next to nothing elsewhere."""
    uptake = {}
    for tracer, (mask, _) in _masks().items():
        pet_suv = np.where(mask, 3.0, 0.1).astype(dtype)
        if tracer is Tracer.FDG:
            pet_suv[3, 2, 4] = lowest_suv
        uptake[tracer] = Uptake(pet_suv=pet_suv, suv_threshold=3.0)
    return uptake


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
def test_disease_at_the_threshold_is_disease(tmp_path, dtype):
    write_masks(_masks(), folder=tmp_path, uptake=_uptake(dtype=dtype))


def test_a_threshold_that_is_no_float32_is_held_as_it_was_when_the_mask_was_made(tmp_path):
    pet_suv = np.where(_mask(FDG_GRID), np.float32(2.3), np.float32(0.1))  # float32's 2.3 is a little below 2.3
    assert float(pet_suv.max()) < 2.3
    uptake = {Tracer.FDG: Uptake(pet_suv=pet_suv, suv_threshold=2.3)}
    write_masks({Tracer.FDG: (_mask(FDG_GRID), FDG_GRID)}, folder=tmp_path, uptake=uptake)


@pytest.mark.parametrize("lowest_suv", [2.99, float("nan")])
def test_disease_below_the_threshold_is_refused_and_neither_mask_appears(tmp_path, lowest_suv):
    message = r"^fdg\.mha: disease must be at or above 3 SUV, got 1 voxels below, the lowest at (2\.99|nan) SUV$"
    with pytest.raises(CaseError, match=message):
        write_masks(_masks(), folder=tmp_path / "output", uptake=_uptake(lowest_suv=lowest_suv))
    assert _files(tmp_path) == []


def test_the_uptake_of_another_scan_is_refused(tmp_path):
    uptake = _uptake()
    with pytest.raises(ValueError, match=r"PET must have the mask's shape .*\(z, y, x\), got"):
        write_masks(
            _masks(), folder=tmp_path, uptake={Tracer.PSMA: uptake[Tracer.FDG], Tracer.FDG: uptake[Tracer.PSMA]}
        )


@pytest.mark.parametrize("tracer", Tracer)
def test_a_mask_reads_alike_by_nibabel(tmp_path, tracer):
    # nibabel reads no .mha; what ITK makes of the mask as NIfTI it must place where the PET is.
    mask, grid = _masks()[tracer]
    path = write_masks(_masks(), folder=tmp_path / "output")[tracer]
    sitk.WriteImage(sitk.ReadImage(path), tmp_path / "mask.nii.gz")
    image = nibabel.load(tmp_path / "mask.nii.gz")
    assert np.array_equal(np.asarray(image.dataobj).T, mask)
    assert image.get_data_dtype() == np.uint8
    to_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine
    assert np.allclose(to_lps[:3, :3], grid.index_to_mm_xyz, atol=1e-5)
    assert np.allclose(to_lps[:3, 3], grid.origin_mm_xyz, atol=1e-3)


def _flip(image):
    flipped = sitk.Image(image)
    flipped[0, 0, 0] = 1 - flipped[0, 0, 0]
    return flipped


def _shift(image, *, by_mm=0.5):
    shifted = sitk.Image(image)
    x, y, z = shifted.GetOrigin()
    shifted.SetOrigin((x + by_mm, y, z))
    return shifted


def _stretch(image):
    stretched = sitk.Image(image)
    stretched.SetSpacing([mm + 1e-4 for mm in image.GetSpacing()])
    return stretched


def _lose_the_grid(image):
    return sitk.GetImageFromArray(to_array(image))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_flip, "mask read back must be the mask written, got 1 different voxels"),
        (
            lambda image: sitk.Cast(image, sitk.sitkInt16),
            "mask must be written as 8-bit unsigned integer, got 16-bit signed",
        ),
        (
            _shift,
            "grid must match the PET within 0.01 mm, got origin that differs by 0.5 mm along x",
        ),
        (lambda image: _shift(image, by_mm=0.001), "origin must be exactly the PET's, got one that differs by 0.001$"),
        (_stretch, "spacing must be exactly the PET's, got one that differs by 0.0001$"),
        (_lose_the_grid, "grid must match the PET within 0.01 mm, got spacing that differs by"),
        (lambda image: image * 255, "mask must hold 0 and 1 only, got 255$"),
        (lambda image: image * 0, "mask read back must be the mask written, got 7 different voxels$"),
        (lambda image: image[::-1, :, :], "(grid|origin|direction) must"),
        (lambda image: sitk.Compose(image, image), "image must be scalar, got 2 components"),
    ],
)
def test_what_is_read_back_must_be_what_was_written(tmp_path, monkeypatch, spoil, message):
    # Stands for a disk or a library that writes something else than it was given.
    write = sitk.WriteImage
    monkeypatch.setattr(
        output_module.sitk, "WriteImage", lambda image, file, **options: write(spoil(image), file, **options)
    )
    with pytest.raises(CaseError, match=message):
        write_masks(_masks(), folder=tmp_path / "output")
    assert _files(tmp_path) == []


def test_a_mask_that_itk_reads_otherwise_than_everyone_is_refused(tmp_path, monkeypatch):
    # Stands for a reader that agrees with its own writer only.
    monkeypatch.setattr(mask_check, "_read_without_itk", lambda file: np.zeros(PSMA_GRID.shape_zyx, dtype=np.uint8))
    with pytest.raises(
        CaseError, match=r"^psma\.mha: mask must read alike with and without ITK, got different voxels$"
    ):
        write_masks(_masks(), folder=tmp_path / "output")
    assert _files(tmp_path) == []


def test_a_mask_cut_off_on_its_way_to_the_disk_is_refused(tmp_path, monkeypatch):
    write = sitk.WriteImage

    def write_part(image, file, **options):
        write(image, file, **options)
        with open(file, "r+b") as stream:
            stream.truncate(os.path.getsize(file) - 5)

    monkeypatch.setattr(output_module.sitk, "WriteImage", write_part)
    with pytest.raises(CaseError, match="image file must be whole, got"):
        write_masks(_masks(), folder=tmp_path / "output")
    assert _files(tmp_path) == []


def test_a_bit_that_turns_over_in_the_output_folder_is_noticed(tmp_path, monkeypatch):
    copy = shutil.copyfile

    def copy_badly(source, target):
        copy(source, target)
        content = bytearray(target.read_bytes())
        content[-1] ^= 1
        target.write_bytes(content)

    monkeypatch.setattr(shutil, "copyfile", copy_badly)
    with pytest.raises(CaseError, match=r"ttb\.mha: mask must arrive as it was checked, got other bytes$"):
        write_masks(_masks(), folder=tmp_path / "output")
    assert _files(tmp_path) == []


@pytest.mark.parametrize("name", ["other.mha", ".hidden"])
def test_a_file_beside_a_mask_is_refused_and_stays(tmp_path, name):
    output = tmp_path / "output"
    prepare_output(output)
    (output / "images/fdg-pet-ttb").mkdir(parents=True)
    (output / "images/fdg-pet-ttb" / name).touch()  # while the networks computed
    with pytest.raises(CaseError, match=rf"images/fdg-pet-ttb: must hold nothing but ttb\.mha, got {name}$"):
        write_masks(_masks(), folder=output)
    assert _files(output) == [f"images/fdg-pet-ttb/{name}"]


def test_an_earlier_run_s_masks_are_taken_away_first(tmp_path):
    output = tmp_path / "output"
    write_masks(_masks(), folder=output)
    (output / "images/fdg-pet-ttb/.ttb.mha.partial").write_bytes(b"killed")
    (output / "log.txt").write_text("the user's")
    prepare_output(output)
    assert _files(output) == ["log.txt"]


def test_somebody_else_s_files_are_refused_and_kept_but_no_earlier_mask_is(tmp_path):
    output = tmp_path / "output"
    write_masks(_masks(), folder=output)
    (output / "images/fdg-pet-ttb/mine.mha").write_bytes(b"precious")
    with pytest.raises(CaseError, match=r"images/fdg-pet-ttb: must hold nothing but ttb\.mha, got mine\.mha$"):
        prepare_output(output)
    assert _files(output) == ["images/fdg-pet-ttb/mine.mha"]


def test_an_earlier_mask_that_stays_is_refused(tmp_path, monkeypatch):
    output = tmp_path / "output"
    write_masks(_masks(), folder=output)
    monkeypatch.setattr("petct.output.take_away_masks", lambda _: None)  # as where it is somebody else's
    with pytest.raises(CaseError, match=r"images/psma-pet-ttb/ttb\.mha: an earlier mask must be removable$"):
        prepare_output(output)


def test_an_output_that_is_no_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CaseError, match="file: output must be a folder that can be written to, got File exists$"):
        prepare_output(tmp_path / "file")


def test_an_output_that_cannot_be_written_to_is_refused(tmp_path, monkeypatch):
    # Root may write everywhere, so the operating system's answer is given for it.
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK | os.X_OK)
    with pytest.raises(CaseError, match="output: output must be a folder that can be written to$"):
        prepare_output(tmp_path / "output")


def test_a_file_where_a_socket_s_folder_must_be_is_refused_before_computing(tmp_path):
    (tmp_path / "output/images").mkdir(parents=True)
    (tmp_path / "output/images/psma-pet-ttb").touch()
    with pytest.raises(CaseError, match="images/psma-pet-ttb: output must be a folder that can be written to$"):
        prepare_output(tmp_path / "output")


def test_a_missing_output_is_made_and_left_empty(tmp_path):
    prepare_output(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    assert list((tmp_path / "a" / "b").iterdir()) == []
