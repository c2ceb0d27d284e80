import resource
import tempfile
from pathlib import Path

import pytest

from petct.errors import CaseError
from petct.temporary import temporary_folder, why_unwritable


def test_folder_is_gone_whatever_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def fail() -> None:
        with temporary_folder("some_") as folder:
            (folder / "deep").mkdir()
            (folder / "deep" / "file").write_text("x", encoding="utf-8")
            assert folder.parent == tmp_path
            assert folder.name.startswith("some_")
            raise KeyError("lost")

    with pytest.raises(KeyError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_folder_that_has_gone_already_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with temporary_folder("some_") as folder:
        folder.rmdir()


def test_no_place_for_temporary_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with (
        pytest.raises(CaseError, match=r"/gone: must be a folder that can be written to, got No such file"),
        temporary_folder("some_"),
    ):
        pass


def test_no_folder_at_all_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> list[str]:
        return ["/proc/nowhere"]

    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", none)
    with (
        pytest.raises(
            CaseError, match=r"^temporary folder: must be a folder that can be written to, got .*No usable|No such"
        ),
        temporary_folder("some_"),
    ):
        pass


def test_folder_that_takes_files_has_no_reason(tmp_path: Path) -> None:
    assert why_unwritable(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_reason_why_a_folder_takes_nothing(tmp_path: Path) -> None:
    assert why_unwritable(tmp_path / "gone") == "No such file or directory"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        assert why_unwritable(tmp_path) == "File too large"
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        assert why_unwritable(tmp_path) == "room for 1000 bytes"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
