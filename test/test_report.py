import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from matplotlib.image import imread

from cases import PET_GRIDS, write_training_case
from evaluation.report import main
from petct.geometry import Grid, to_image

MASKS = {"PSMA": "images/psma-pet-ttb/ttb.mha", "FDG": "images/fdg-pet-ttb/ttb.mha"}
PSMA_ML = 4.0 * 5.0 * 3.0 / 1000.0  # a voxel
FDG_ML = 3.5 * 4.0 * 2.5 / 1000.0
LARGE = (slice(2, 4), slice(1, 4), slice(4, 6))  # 2 x 3 x 2 voxels
SMALL = (8, 6, 1)
CORNER = (9, 7, 2)  # touches SMALL with a corner only, so it is a lesion of its own


@pytest.fixture
def case(tmp_path: Path) -> Path:
    """A case whose PSMA PET is known voxel by voxel."""
    write_training_case(tmp_path / "case")
    suv = np.ones(PET_GRIDS["PSMA"].shape_zyx, dtype=np.float32)
    suv[LARGE] = 4.0
    suv[2, 1, 4] = 16.0
    suv[SMALL] = 9.5
    suv[CORNER] = 3.25
    sitk.WriteImage(to_image(suv, PET_GRIDS["PSMA"]), tmp_path / "case/PSMA/PET.nii.gz")
    return tmp_path / "case"


def write_mask(file: Path, scan: str, places: Sequence[tuple], *, grid: Grid | None = None) -> None:
    grid = grid or PET_GRIDS[scan]
    mask = np.zeros(grid.shape_zyx, dtype=np.uint8)
    for place in places:
        mask[place] = 1
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(to_image(mask, grid), file)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Three lesions for PSMA, none for FDG."""
    write_mask(tmp_path / "output" / MASKS["PSMA"], "PSMA", [SMALL, LARGE, CORNER])
    write_mask(tmp_path / "output" / MASKS["FDG"], "FDG", [])
    return tmp_path / "output"


def words(text: str, first: str) -> list[str]:
    """The one line that starts with a word, split."""
    (line,) = [line for line in text.splitlines() if line.split()[:1] == [first]]
    return line.split()


def report(case: Path, output: Path, *options: str) -> int:
    return main(["--case", str(case), "--output", str(output), *options])


def test_the_tables_hold_what_the_masks_hold(case: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(case, output) == 0

    said = capsys.readouterr()
    assert said.err == ""
    suv_sum = 11 * 4.0 + 16.0 + 9.5 + 3.25
    psma = ["3", f"{14 * PSMA_ML:.1f}", "16.0", f"{suv_sum / 14:.1f}", "-"]
    assert words(said.out, "PSMA") == ["PSMA", *psma, str(output / MASKS["PSMA"])]
    assert words(said.out, "FDG") == ["FDG", "0", "0.0", "0.0", "0.0", "-", str(output / MASKS["FDG"])]
    assert words(said.out, "1") == ["1", f"{12 * PSMA_ML:.2f}", "16.0", f"{(11 * 4.0 + 16.0) / 12:.1f}"]
    assert {tuple(words(said.out, rank)[1:]) for rank in "23"} == {
        (f"{PSMA_ML:.2f}", "9.5", "9.5"),
        (f"{PSMA_ML:.2f}", "3.2", "3.2"),
    }
    assert "FDG: the largest lesions" not in said.out
    assert str(output / "lesions.csv") in said.out
    assert str(output / "picture.png") in said.out


def test_the_file_of_lesions_says_where_each_lies_in_the_patient(case: Path, output: Path) -> None:
    assert report(case, output) == 0

    with (output / "lesions.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["tracer"] for row in rows] == ["psma"] * 3
    pet = sitk.ReadImage(case / "PSMA/PET.nii.gz")
    expected = {
        # Middle of LARGE: z 2-3, y 1-3, x 4-5.
        (12 * PSMA_ML, 16.0, (11 * 4.0 + 16.0) / 12): (4.5, 2.0, 2.5),
        (PSMA_ML, 9.5, 9.5): (1.0, 6.0, 8.0),
        (PSMA_ML, 3.25, 3.25): (2.0, 7.0, 9.0),
    }
    found = {tuple(float(row[name]) for name in ("volume_ml", "suv_max", "suv_mean")): row for row in rows}
    assert found.keys() == expected.keys()
    for numbers, index_xyz in expected.items():
        position_mm = [float(found[numbers][axis]) for axis in ("x_mm", "y_mm", "z_mm")]
        assert position_mm == pytest.approx(pet.TransformContinuousIndexToPhysicalPoint(index_xyz), abs=1e-3)


def test_masks_are_compared_with_the_truth(case: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Half of LARGE, SMALL, and a voxel that was missed.
    write_mask(case / "PSMA/TTB.nii.gz", "PSMA", [(slice(2, 3), *LARGE[1:]), SMALL, (6, 0, 0)])
    write_mask(case / "FDG/TTB.nii.gz", "FDG", [])

    assert report(case, output, "--truth", str(case)) == 0

    said = capsys.readouterr().out
    assert words(said, "PSMA")[5] == f"{2 * (6 + 1) / (14 + 8):.3f}"
    assert words(said, "FDG")[5] == "nan"  # nothing to find and nothing found: as in the challenge's metrics


def test_many_lesions_are_all_in_the_file_and_the_largest_on_the_screen(
    case: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    single = [(z, y, 1) for z in range(0, 12, 2) for y in (0, 2, 4)]  # 18, two voxels apart
    write_mask(output / MASKS["FDG"], "FDG", [*single, (slice(0, 4), slice(2, 3), slice(6, 9))])

    assert report(case, output) == 0

    said = capsys.readouterr().out.partition("FDG: the largest lesions")[2]
    assert words(said, "1")[1] == f"{12 * FDG_ML:.2f}"
    assert words(said, "15")[1] == f"{FDG_ML:.2f}"
    assert f"and {19 - 15} smaller ones" in said
    lines = (output / "lesions.csv").read_text(encoding="utf-8").splitlines()
    assert sum(line.startswith("fdg,") for line in lines) == 19
    assert lines[1 + 3].startswith(f"fdg,{12 * FDG_ML:.3f},")


def test_the_picture_is_a_png_that_shows_masks_and_truth_in_their_colours(case: Path, output: Path) -> None:
    def pixels() -> tuple[int, int]:
        """Blue and red ones."""
        assert (output / "picture.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
        red, green, blue = np.moveaxis(imread(output / "picture.png")[..., :3], -1, 0)
        return int(np.sum((blue > 0.9) & (red < 0.3))), int(np.sum((red > 0.9) & (green < 0.3) & (blue < 0.3)))

    assert report(case, output) == 0
    mask_pixels, truth_pixels = pixels()
    assert mask_pixels > 50
    assert truth_pixels == 0

    write_mask(output / MASKS["PSMA"], "PSMA", [])
    assert report(case, output) == 0
    assert pixels() == (0, 0)

    for scan in MASKS:
        write_mask(case / scan / "TTB.nii.gz", scan, [LARGE])
    assert report(case, output, "--truth", str(case)) == 0
    mask_pixels, truth_pixels = pixels()
    assert mask_pixels == 0
    assert truth_pixels > 50


def refusal(case: Path, output: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert report(case, output, *options) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said.rstrip("\n")


def test_a_mask_on_another_grid_is_refused(case: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x, y, z = PET_GRIDS["FDG"].origin_mm_xyz
    moved = replace(PET_GRIDS["FDG"], origin_mm_xyz=(x, y, z - 3.2))
    write_mask(output / MASKS["FDG"], "FDG", [LARGE], grid=moved)

    line = refusal(case, output, capsys)

    assert line == "fdg mask: grid must match the PET within 0.01 mm, got origin that differs by 3.2 mm along z"
    assert not (output / "lesions.csv").exists()


def test_a_truth_on_another_grid_is_refused(case: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_mask(case / "PSMA/TTB.nii.gz", "FDG", [LARGE])

    line = refusal(case, output, capsys, "--truth", str(case))

    assert line == "psma truth: grid must match the PET, got (10, 8, 12) voxels (x, y, z) for (7, 9, 11)"


def test_a_missing_mask_and_a_missing_truth_are_refused(
    case: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refusal(case, output, capsys, "--truth", str(case)) == "PSMA/TTB.nii.gz: file is missing"
    (output / MASKS["FDG"]).unlink()
    assert refusal(case, output, capsys) == "fdg mask: file must be readable, got No such file or directory"


def test_an_output_that_cannot_be_written_to_is_refused(
    case: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (output / "lesions.csv").mkdir()

    line = refusal(case, output, capsys)

    assert line == f"{output}: lesions.csv and picture.png must be writable, got Is a directory"
