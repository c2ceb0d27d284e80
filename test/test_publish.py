"""Putting a packed ensemble in place, stopped at every step: what the manifest names is always whole."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from petct.case import Tracer
from petct.errors import CaseError
from petct.manifest import Manifest, Member, read_manifest
from segmentation.weight_files import check_files, check_member_files, sha256_of
from training.weights import publish as publishing
from training.weights.manifest_text import manifest_toml
from training.weights.publish import check_target, publish, staging_folder, weights_folder
from whole_case import stand_in_models, write_manifest

OLD, NEW, NEWER = "old", "new", "newer"


class KilledError(BaseException):
    """In place of a SIGKILL: nothing of ours may catch it."""


def stage(manifest: Path, *, mark: str) -> Manifest:
    """An ensemble as packing leaves it in the hidden folder; every file of it bears the mark."""
    staging = staging_folder(manifest)
    shutil.rmtree(staging, ignore_errors=True)
    models = stand_in_models(weights_folder(staging / manifest.name))
    for path in models.folder.rglob("*"):
        if path.is_file():
            path.write_text(f"{mark} {path.read_text()}", encoding="utf-8")
    (models.folder / "README.md").write_text(mark, encoding="utf-8")
    rules = read_manifest(write_manifest(models, warning=mark))

    def digested(member: Member) -> Member:
        return replace(member, sha256={file: sha256_of(member.folder / file) for file in member.sha256})

    psma, fdg = (
        replace(rules.tracer(tracer), members=tuple(map(digested, rules.tracer(tracer).members))) for tracer in Tracer
    )
    organs = rules.organs
    files = [path for path in organs.weights.rglob("*") if path.is_file()]
    organs = replace(organs, sha256={path.relative_to(organs.weights).as_posix(): sha256_of(path) for path in files})
    staged = replace(rules, path=staging / manifest.name, psma=psma, fdg=fdg, organs=organs)
    (models.folder / "tiny.toml").unlink()
    staged.path.write_text(manifest_toml(staged, comment=mark), encoding="utf-8")
    return read_manifest(staged.path)


def mark_of(manifest: Path) -> str:
    """Which ensemble the manifest names; every file of it must be there and be that one's."""
    ensemble = read_manifest(manifest)
    for tracer in Tracer:
        for member in ensemble.tracer(tracer).members:
            assert member.sha256
            check_member_files(member)
    assert len(ensemble.organs.sha256) == 3
    check_files(ensemble.organs.weights, ensemble.organs.sha256, where="organs")
    return ensemble.warning


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return tmp_path / "mine.toml"


def put(manifest: Path, mark: str) -> None:
    check_target(manifest, overwrite=True)
    publish(stage(manifest, mark=mark), manifest=manifest)
    shutil.rmtree(staging_folder(manifest))


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """[steps that still may be taken]; the next one is not, and the process is gone. Negative: no limit."""
    left = [-1]

    def counted(function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            if left[0] == 0:
                raise KilledError
            left[0] -= 1
            return function(*arguments, **options)

        return call

    def halfway(folder: Path, ignore_errors: bool = False) -> None:
        """Removing is no single step: a file may be gone and the others not."""
        files = [path for path in folder.rglob("*") if path.is_file()]
        if files:
            files[0].unlink()
            counted(int)()
        remove(folder, ignore_errors=ignore_errors)

    remove = shutil.rmtree
    monkeypatch.setattr(publishing.os, "replace", counted(publishing.os.replace))
    monkeypatch.setattr(publishing.os, "link", counted(publishing.os.link))
    monkeypatch.setattr(Path, "rename", counted(Path.rename))
    monkeypatch.setattr(Path, "write_text", counted(Path.write_text))
    monkeypatch.setattr(publishing.shutil, "rmtree", counted(halfway))
    return left


def killed_at_every_step(staged: Any, steps: list[int], manifest: Path) -> Iterator[int]:
    for step in range(200):
        ensemble = staged()
        steps[0] = step
        try:
            publish(ensemble, manifest=manifest)
        except KilledError:
            steps[0] = -1
            yield step
        else:
            steps[0] = -1
            return
    raise AssertionError("publishing must end")


def test_a_new_ensemble_gets_its_place_and_nothing_else_stays(manifest: Path) -> None:
    put(manifest, NEW)
    assert mark_of(manifest) == NEW
    assert sorted(path.name for path in manifest.parent.iterdir()) == ["mine", "mine.toml"]
    ensemble = read_manifest(manifest)
    assert ensemble.organs.weights == manifest.parent / "mine" / "organs"
    assert manifest.read_text(encoding="utf-8").startswith(f"# {NEW}\n")
    assert (manifest.parent / "mine" / "README.md").read_text(encoding="utf-8") == NEW


def test_an_old_ensemble_is_replaced_with_all_that_belonged_to_it(manifest: Path) -> None:
    put(manifest, OLD)
    extra = manifest.parent / "mine" / "psma_member" / "fold_7" / "checkpoint_final.safetensors"
    extra.parent.mkdir()
    extra.touch()  # of an older packing with another fold
    put(manifest, NEW)
    assert mark_of(manifest) == NEW
    assert not extra.exists()


def test_killed_at_any_step_the_old_or_the_new_is_whole(manifest: Path, steps: list[int]) -> None:
    marks = []

    def staged() -> Manifest:
        for path in manifest.parent.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        put(manifest, OLD)
        return stage(manifest, mark=NEW)

    for step in killed_at_every_step(staged, steps, manifest):
        marks.append(mark_of(manifest))
        shutil.rmtree(staging_folder(manifest))
        # The next packing completes what the manifest names, also when it then refuses to replace it ...
        with pytest.raises(CaseError, match="must not exist yet; --overwrite replaces it and its weights"):
            check_target(manifest, overwrite=False)
        assert mark_of(manifest) == marks[-1], step
        assert sorted(path.name for path in manifest.parent.iterdir()) == ["mine", "mine.toml"]
        assert read_manifest(manifest).organs.weights == manifest.parent / "mine" / "organs"
        # ... and goes on from there.
        put(manifest, NEWER)
        assert mark_of(manifest) == NEWER, step
    assert marks.count(OLD) >= 3
    assert marks.count(NEW) >= 10
    assert marks == sorted(marks, reverse=True)  # first the old, then the new


def test_killed_at_any_step_a_first_ensemble_is_there_or_is_not(manifest: Path, steps: list[int]) -> None:
    seen = set()

    def staged() -> Manifest:
        for path in manifest.parent.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return stage(manifest, mark=NEW)

    for _ in killed_at_every_step(staged, steps, manifest):
        seen.add(mark_of(manifest) if manifest.exists() else "")
        put(manifest, NEWER)
        assert mark_of(manifest) == NEWER
    assert seen == {"", NEW}


def test_a_disk_without_hard_links(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(publishing.os, "link", refuse)
    put(manifest, OLD)
    put(manifest, NEW)
    assert mark_of(manifest) == NEW


@pytest.mark.parametrize("name", ["mine", "mine.tml", ".toml", ".mine.toml"])
def test_a_manifest_must_be_called_something(tmp_path: Path, name: str) -> None:
    with pytest.raises(CaseError, match=f"--manifest: must be called <name>.toml, .* got {name}$"):
        check_target(tmp_path / name, overwrite=True)


def test_what_is_not_ours_is_not_replaced(manifest: Path) -> None:
    put(manifest, OLD)
    thesis = manifest.parent / "mine" / "notes" / "thesis.txt"
    thesis.parent.mkdir()
    thesis.write_text("important", encoding="utf-8")
    with pytest.raises(CaseError, match=r"mine must hold nothing but what mine.toml names, .*, got notes/thesis.txt"):
        check_target(manifest, overwrite=True)
    assert thesis.read_text(encoding="utf-8") == "important"
    assert mark_of(manifest) == OLD


def test_a_folder_without_its_manifest_is_not_replaced(tmp_path: Path) -> None:
    # `--manifest training.toml` in the project's own folder must not cost it its code.
    code = tmp_path / "training" / "__init__.py"
    code.parent.mkdir()
    code.touch()
    with pytest.raises(CaseError, match="training must not exist without its manifest training.toml"):
        check_target(tmp_path / "training.toml", overwrite=True)
    assert code.exists()


def test_an_ensemble_that_is_there_is_replaced_only_when_told_to(manifest: Path) -> None:
    put(manifest, OLD)
    with pytest.raises(CaseError, match="mine.toml must not exist yet; --overwrite replaces it and its weights"):
        check_target(manifest, overwrite=False)
    assert mark_of(manifest) == OLD
