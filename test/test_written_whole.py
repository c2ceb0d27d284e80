"""A file's name never holds half of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import SimpleITK as sitk

from petct.written_whole import written_whole


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_file_appears_at_the_end_of_the_block_and_not_before(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    with written_whole(file) as partial:
        partial.write_text("half", encoding="utf-8")
        assert names(tmp_path) == [".partial.table.csv"]
        partial.write_text("whole", encoding="utf-8")
    assert names(tmp_path) == ["table.csv"]
    assert file.read_text(encoding="utf-8") == "whole"


def test_it_takes_the_place_of_an_old_file_and_of_what_a_killed_run_left(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    file.write_text("old", encoding="utf-8")
    (tmp_path / ".partial.table.csv").write_text("killed while this was written", encoding="utf-8")
    with written_whole(file) as partial:
        partial.write_text("new", encoding="utf-8")
        assert file.read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == ["table.csv"]
    assert file.read_text(encoding="utf-8") == "new"


def write_half(file: Path, error: BaseException) -> None:
    with written_whole(file) as partial:
        partial.write_text("half", encoding="utf-8")
        raise error


@pytest.mark.parametrize(
    "error", [RuntimeError("half-way"), OSError(28, "No space left on device"), KeyboardInterrupt()], ids=repr
)
def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    file = tmp_path / "table.csv"
    file.write_text("old", encoding="utf-8")
    with pytest.raises(type(error)) as caught:
        write_half(file, error)
    assert caught.value is error
    assert names(tmp_path) == ["table.csv"]
    assert file.read_text(encoding="utf-8") == "old"


def test_a_block_that_fails_before_it_writes_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="^nothing to write$"), written_whole(tmp_path / "table.csv"):
        raise RuntimeError("nothing to write")
    assert names(tmp_path) == []


def test_the_first_error_is_told_when_there_is_nothing_to_clear_away(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    first = RuntimeError("the first")
    # Below a file nothing can be removed either: NotADirectoryError, which must not take the first one's place.
    with pytest.raises(RuntimeError) as caught, written_whole(tmp_path / "file" / "table.csv"):
        raise first
    assert caught.value is first


def test_a_folder_that_is_a_file_is_the_error_of_writing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    file = tmp_path / "file" / "table.csv"
    with pytest.raises(NotADirectoryError) as caught, written_whole(file) as partial:
        partial.write_text("", encoding="utf-8")
    assert caught.value.__context__ is None
    assert names(tmp_path) == ["file"]


def test_a_file_that_cannot_be_replaced_leaves_no_sibling(tmp_path: Path) -> None:
    (tmp_path / "table.csv").mkdir()
    with pytest.raises(IsADirectoryError), written_whole(tmp_path / "table.csv") as partial:
        partial.write_text("new", encoding="utf-8")
    assert names(tmp_path) == ["table.csv"]


def test_a_block_that_writes_nothing_is_an_error_and_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    file.write_text("old", encoding="utf-8")
    with pytest.raises(FileNotFoundError), written_whole(file):
        pass
    assert file.read_text(encoding="utf-8") == "old"


@pytest.mark.parametrize("name", ["organs.nii.gz", "mask.mha"])
def test_itk_knows_the_format_by_the_siblings_name(tmp_path: Path, name: str) -> None:
    image = sitk.Image((3, 4, 5), sitk.sitkUInt8)
    image.SetSpacing((2.0, 3.0, 4.5))
    image.SetOrigin((-7.0, 11.0, 23.0))
    with written_whole(tmp_path / name) as partial:
        sitk.WriteImage(image + 1, str(partial), useCompression=True)
    written = sitk.ReadImage(str(tmp_path / name))
    assert written.GetSize() == (3, 4, 5)
    assert written.GetSpacing() == pytest.approx((2.0, 3.0, 4.5))
    assert names(tmp_path) == [name]
