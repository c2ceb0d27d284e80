"""The checker of a run's output must say no to everything that the platform or the metrics would refuse."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from check_masks import SOCKETS, check_masks, dice_of

SHAPE_ZYX = (5, 4, 3)
ORIGIN_MM_XYZ = (-7.0, 11.0, 130.0)
SPACING_MM_XYZ = (2.0, 3.0, 5.0)


def _image(array: np.ndarray, origin_mm_xyz: tuple[float, float, float] = ORIGIN_MM_XYZ) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING_MM_XYZ)
    image.SetOrigin(origin_mm_xyz)
    image.SetDirection((0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, -1.0))
    return image


def _mask(voxels: int = 4) -> np.ndarray:
    mask = np.zeros(SHAPE_ZYX, dtype=np.uint8)
    mask.flat[:voxels] = 1
    return mask


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Input, output and truth folders of a run without a fault."""
    input_dir, output_dir, truth_dir = tmp_path / "input", tmp_path / "output", tmp_path / "truth"
    for socket in SOCKETS:
        for file, array in (
            (input_dir / socket.pet / "pet.mha", np.ones(SHAPE_ZYX, dtype=np.float32)),
            (output_dir / socket.mask / "mask.mha", _mask()),
            (truth_dir / socket.truth, _mask(6)),
        ):
            file.parent.mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(_image(array), file)
        (input_dir / socket.threshold).write_text("1.0")  # what every voxel of the PET has
    return input_dir, output_dir, truth_dir


def _write_fdg(output_dir: Path, image: sitk.Image) -> None:
    sitk.WriteImage(image, output_dir / "images/fdg-pet-ttb/mask.mha")


def test_a_good_run_has_no_fault(run: tuple[Path, Path, Path]) -> None:
    input_dir, output_dir, truth_dir = run
    # Dice of 4 voxels inside 6: 2 * 4 / (4 + 6)
    assert check_masks(output_dir, input_dir=input_dir, truth_dir=truth_dir, dice_floor=0.8) == []


def test_low_dice(run: tuple[Path, Path, Path]) -> None:
    input_dir, output_dir, truth_dir = run
    faults = check_masks(output_dir, input_dir=input_dir, truth_dir=truth_dir, dice_floor=0.81)
    assert faults == [
        "images/psma-pet-ttb: Dice must be at least 0.81, got 0.800",
        "images/fdg-pet-ttb: Dice must be at least 0.81, got 0.800",
    ]


@pytest.mark.parametrize(
    ("image", "fault"),
    [
        (_image(_mask().astype(np.int16)), "pixel type must be 8-bit unsigned integer, got 16-bit signed integer"),
        (_image(_mask() * 255), r"values must be 0 and 1, got \[0, 255\]"),
        (_image(_mask(0)), "at least one voxel"),
        (_image(_mask(), origin_mm_xyz=(-7.001, 11.0, 130.0)), "origin must be the PET's"),
        (_image(_mask().transpose(2, 1, 0).copy()), "size must be the PET's"),
        (sitk.GetImageFromArray(_mask()), "direction must be the PET's"),
    ],
)
def test_a_wrong_mask(run: tuple[Path, Path, Path], image: sitk.Image, fault: str) -> None:
    input_dir, output_dir, _ = run
    _write_fdg(output_dir, image)
    faults = check_masks(output_dir, input_dir=input_dir)
    assert all(line.startswith("images/fdg-pet-ttb: ") for line in faults)
    assert any(re.search(fault, line) for line in faults)


@pytest.mark.parametrize("content", ["1.01", '{"suv_threshold": 1.01}'])
def test_disease_below_the_threshold(run: tuple[Path, Path, Path], content: str) -> None:
    input_dir, output_dir, _ = run
    (input_dir / SOCKETS[1].threshold).write_text(content)
    assert check_masks(output_dir, input_dir=input_dir) == [
        "images/fdg-pet-ttb: disease must be at or above 1.01 SUV, got 4 voxels below, down to 1.0"
    ]


def test_what_nibabel_reads_otherwise(run: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    input_dir, output_dir, _ = run
    other = nibabel.Nifti1Image(_mask(5).T, np.diag([-2.0, -3.0, 5.0, 1.0]))
    monkeypatch.setattr(nibabel.Nifti1Image, "from_filename", lambda file: other)
    faults = check_masks(output_dir, input_dir=input_dir)
    assert len(faults) == 4
    assert faults[0] == "images/psma-pet-ttb: nibabel must read the voxels that ITK reads, got others"
    assert re.fullmatch(
        "images/psma-pet-ttb: nibabel must see the last voxel where ITK sees it, got .* mm off", faults[1]
    )


def test_missing_second_and_foreign_files(run: tuple[Path, Path, Path]) -> None:
    input_dir, output_dir, _ = run
    (output_dir / "images/psma-pet-ttb/mask.mha").unlink()
    sitk.WriteImage(_image(_mask()), output_dir / "images/fdg-pet-ttb/other.mha")
    (output_dir / "log.txt").write_text("left behind")
    (output_dir / "link").symlink_to("nowhere")
    assert check_masks(output_dir, input_dir=input_dir) == [
        "link: only the masks may be left in the output",
        "log.txt: only the masks may be left in the output",
        "images/psma-pet-ttb: must hold exactly one .mha, got 0",
        "images/fdg-pet-ttb: must hold exactly one .mha, got 2",
    ]


def test_dice_of_halves_that_overlap() -> None:
    found = np.array([True, True, False, False])
    truth = np.array([False, True, True, True])
    assert dice_of(found, truth=truth) == 2 * 1 / (2 + 3)
