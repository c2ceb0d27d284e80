"""The platform's model tarball, as `pack` and export.sh write it with the same lines."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from petct.errors import CaseError
from petct.manifest import MANIFEST_NAME, read_manifest
from training.weights import tarball as module
from training.weights.tarball import weight_folders, write_tarball
from whole_case import Models, stand_in_models, write_manifest

BELOW = "tiny.toml: weights must lie below the manifest's folder"
PROJECT = Path(module.__file__).resolve().parents[2]


@pytest.fixture
def models(tmp_path: Path) -> Models:
    return stand_in_models(tmp_path / "models")


@pytest.fixture
def manifest(models: Models) -> Path:
    return write_manifest(models)


def test_it_holds_the_manifest_and_the_weights_that_it_names(models: Models, manifest: Path, tmp_path: Path) -> None:
    (models.folder / "another" / "weights").mkdir(parents=True)
    (models.folder / "tiny").mkdir()
    (models.folder / "tiny" / "README.md").write_text("Licence: mine", encoding="utf-8")
    write_tarball(manifest, tarball=tmp_path / "a.tar.gz", overwrite=False)
    with tarfile.open(tmp_path / "a.tar.gz") as archive:
        names = archive.getnames()
        archive.extractall(tmp_path / "extracted", filter="data")
    assert MANIFEST_NAME == module.MANIFEST_NAME == names[0]
    assert names[1:] == sorted(names[1:])
    assert not any(name.startswith("another") for name in names)
    extracted = read_manifest(tmp_path / "extracted" / MANIFEST_NAME)
    original = read_manifest(manifest)
    assert [member.sha256 for member in extracted.psma.members] == [m.sha256 for m in original.psma.members]
    for folder in weight_folders(manifest):
        for path in (models.folder / folder).rglob("*"):
            if path.is_file():
                copy = tmp_path / "extracted" / path.relative_to(models.folder)
                assert copy.read_bytes() == path.read_bytes()
    assert (tmp_path / "extracted" / "tiny" / "README.md").read_text(encoding="utf-8") == "Licence: mine"


def test_the_same_files_give_the_same_bytes(models: Models, manifest: Path, tmp_path: Path) -> None:
    write_tarball(manifest, tarball=tmp_path / "a.tar.gz", overwrite=False)
    moved = tmp_path / "elsewhere"
    shutil.copytree(models.folder, moved, copy_function=shutil.copyfile)
    for path in moved.rglob("*"):
        os.utime(path, (1.0, 2.0))
        path.chmod(0o700 if path.is_dir() else 0o600)
    write_tarball(moved / manifest.name, tarball=tmp_path / "another name.tar.gz", overwrite=False)
    assert (tmp_path / "a.tar.gz").read_bytes() == (tmp_path / "another name.tar.gz").read_bytes()
    with tarfile.open(tmp_path / "another name.tar.gz") as archive:
        for entry in archive:
            assert (entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname) == (0, 0, 0, "", "")
            assert entry.mode == (0o755 if entry.isdir() else 0o644)
    with gzip.open(tmp_path / "a.tar.gz") as stream:
        assert stream.read(13) == b"manifest.toml"
        assert stream.mtime == 0


def test_links_are_followed(models: Models, manifest: Path, tmp_path: Path) -> None:
    real = tmp_path / "downloads"
    (models.folder / "organs").rename(real)
    (models.folder / "organs").symlink_to(real)
    (file,) = models.folder.glob("psma_member/fold_0/*.safetensors")
    os.link(file, models.folder / "fdg_member" / "hard.link")
    write_tarball(manifest, tarball=tmp_path / "a.tar.gz", overwrite=False)
    with tarfile.open(tmp_path / "a.tar.gz") as archive:
        entries = archive.getmembers()
    assert all(entry.isfile() or entry.isdir() for entry in entries)
    assert sum(entry.name.startswith("organs/") and entry.isfile() for entry in entries) == 3


def test_export_writes_the_same_bytes_without_any_package(models: Models, manifest: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    for name in ("export.sh", "environment.sh", "pyproject.toml"):
        shutil.copy(PROJECT / name, project / name)
    for name in ("petct", "training"):
        shutil.copytree(PROJECT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    # No .venv there, and a Python that finds no installed package.
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    for _ in range(2):  # export.sh replaces what it wrote before
        done = subprocess.run(
            [project / "export.sh", "model", manifest],
            env={"PATH": os.environ["PATH"], "PYTHON": str(python)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
    (written,) = (project / "dist").iterdir()
    assert written.name.startswith("psma-fdg-ttb-")
    assert written.name.endswith("-model.tar.gz")
    assert f"{written.relative_to(project)}: {written.stat().st_size} bytes" in done.stdout
    write_tarball(manifest, tarball=tmp_path / "a.tar.gz", overwrite=False)
    assert written.read_bytes() == (tmp_path / "a.tar.gz").read_bytes()


def test_organ_weights_that_nobody_promised_may_be_missing(models: Models, manifest: Path, tmp_path: Path) -> None:
    shutil.rmtree(models.folder / "organs")
    pinned = manifest.read_text(encoding="utf-8")
    unpinned, files = re.subn(r"(?<=\[organs\.sha256\]\n)(.+ = .+\n)+", "", pinned)
    assert files == 1
    manifest.write_text(unpinned, encoding="utf-8")
    write_tarball(manifest, tarball=tmp_path / "a.tar.gz", overwrite=False)
    with tarfile.open(tmp_path / "a.tar.gz") as archive:
        assert not any(name.startswith("organs") for name in archive.getnames())
    manifest.write_text(pinned, encoding="utf-8")
    with pytest.raises(CaseError, match="tiny.toml: folder of weights is missing, got organs"):
        write_tarball(manifest, tarball=tmp_path / "b.tar.gz", overwrite=False)


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ('folder = "fdg_member"', 'folder = "gone"', "tiny.toml: folder of weights is missing, got gone"),
        ('folder = "fdg_member"', 'folder = "../x"', f"{BELOW}, got ../x"),
        ('folder = "fdg_member"', 'folder = "/tmp"', f"{BELOW}, got /tmp"),
        ("[organs]", "[organ]", "tiny.toml: must be a manifest, got KeyError: 'weights'"),
        ("name = ", "name ", "tiny.toml: must be a manifest, got TOMLDecodeError"),
    ],
)
def test_a_manifest_that_cannot_be_packed_leaves_nothing(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, error: str
) -> None:
    manifest.write_text(manifest.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    assert module.main([str(manifest), str(tmp_path / "a.tar.gz")]) == 1
    message = capsys.readouterr().err
    assert message.startswith(error)
    assert message.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


def test_a_tarball_that_is_there_stays_unless_told_otherwise(manifest: Path, tmp_path: Path) -> None:
    tarball = tmp_path / "a.tar.gz"
    tarball.write_text("old", encoding="utf-8")
    with pytest.raises(CaseError, match="tarball: .*a.tar.gz must not exist yet; --overwrite replaces it"):
        write_tarball(manifest, tarball=tarball, overwrite=False)
    assert tarball.read_text(encoding="utf-8") == "old"
    write_tarball(manifest, tarball=tarball, overwrite=True)
    assert tarfile.is_tarfile(tarball)


@pytest.mark.parametrize(
    ("place", "error"),
    [("a.tar", "must be called <name>.tar.gz, got a.tar"), ("none/a.tar.gz", "folder must exist, got .*none")],
)
def test_a_tarball_that_cannot_be_written(manifest: Path, tmp_path: Path, place: str, error: str) -> None:
    with pytest.raises(CaseError, match=f"tarball: {error}"):
        write_tarball(manifest, tarball=tmp_path / place, overwrite=False)


def test_an_interrupted_tarball_leaves_nothing(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tarfile.TarFile, "addfile", stop)
    with pytest.raises(KeyboardInterrupt):
        write_tarball(manifest, tarball=tmp_path / "a.tar.gz", overwrite=False)
    assert [path.name for path in tmp_path.iterdir()] == ["models"]
