"""What a packed model tells of its training: read from nnU-Net's own files, and from git."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from petct.errors import CaseError
from training.weights.code_version import PROJECT, code_version, package_versions
from training.weights.training_record import fold_record

LABELS = {"background": 0, "normal": 2, "ttb": 1}
PSEUDO = {"dice_of": "pseudo-Dice of the last epoch", "dice": {"ttb": 0.7778, "normal": 0.25}}
# As nnU-Net's trainer keeps it: float32, a list per epoch, the classes in the order of their labels.
LOGGING = {"dice_per_class_or_region": [[np.float32(0.1), np.float32(0.2)], [np.float32(0.77777), np.float32(0.25)]]}


def record(folder: Path, *, checkpoint_name: str = "final", **checkpoint: Any) -> dict[str, Any]:
    return fold_record(checkpoint, fold_folder=folder, checkpoint_name=checkpoint_name, labels=LABELS, where="fold 3")


def write_summary(folder: Path, content: object) -> None:
    (folder / "validation").mkdir(exist_ok=True)
    (folder / "validation" / "summary.json").write_text(json.dumps(content), encoding="utf-8")


def test_without_a_validation_the_last_epochs_pseudo_dice_is_named_as_such(tmp_path: Path) -> None:
    assert record(tmp_path, current_epoch=2, logging=LOGGING) == {"epochs": 2} | PSEUDO


def test_the_validation_on_whole_images_comes_first(tmp_path: Path) -> None:
    mean = {"1": {"Dice": 0.91234, "IoU": 0.1}, "2": {"Dice": float("nan"), "IoU": 0.2}}
    write_summary(tmp_path, {"mean": mean, "foreground_mean": {"Dice": 0.5}, "metric_per_case": []})
    expected = {"dice_of": "validation", "dice": {"ttb": 0.9123, "normal": None}}
    assert record(tmp_path, logging=LOGGING) == expected
    # It judged the last epoch's weights, not the best epoch's.
    assert record(tmp_path, checkpoint_name="best", logging=LOGGING) == PSEUDO


def test_iterations_and_machine_come_of_debug_json(tmp_path: Path) -> None:
    debug = {"num_iterations_per_epoch": "250", "gpu_name": "Tesla T4", "torch_version": "2.8.0", "lr_scheduler": "x"}
    (tmp_path / "debug.json").write_text(json.dumps(debug), encoding="utf-8")
    assert record(tmp_path) == {"iterations_per_epoch": 250, "gpu": "Tesla T4", "torch": "2.8.0"}


def test_nothing_known_is_nothing_said(tmp_path: Path) -> None:
    assert record(tmp_path) == {}
    assert record(tmp_path, logging={}) == {}


@pytest.mark.parametrize("summary", [{"mean": {"1": {"IoU": 0.5}}}, {"mean": {"1": {"Dice": "good"}}}, {"means": {}}])
def test_another_programs_summary_is_refused(tmp_path: Path, summary: object) -> None:
    write_summary(tmp_path, summary)
    with pytest.raises(CaseError, match="fold 3: validation/summary.json must be nnU-Net's"):
        record(tmp_path)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "debug.json").write_text("{", encoding="utf-8")
    with pytest.raises(CaseError, match="fold 3: debug.json must be JSON in UTF-8"):
        record(tmp_path)
    (tmp_path / "debug.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(CaseError, match="fold 3: debug.json must hold a JSON object, got list"):
        record(tmp_path)


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.org"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_the_code_is_named_by_version_and_commit(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    project = tmp_path / "project"
    project.mkdir()
    shutil.copyfile(PROJECT / "pyproject.toml", project / "pyproject.toml")
    plain = code_version(project)
    assert plain.startswith("psma-fdg-ttb ")
    assert "(" not in plain  # the repository above is another project's
    git(project, "init", "--quiet")
    git(project, "add", "pyproject.toml")
    git(project, "commit", "--quiet", "--message", "First")
    git(project, "tag", "v9")
    commit = git(project, "rev-parse", "HEAD")
    assert code_version(project) == f"{plain} ({commit})"
    with (project / "pyproject.toml").open("a", encoding="utf-8") as stream:
        stream.write("\n# changed\n")
    assert code_version(project) == f"{plain} ({commit}-dirty)"


def test_the_packages_are_those_that_are_installed() -> None:
    assert package_versions()["torch"] == torch.__version__.split("+")[0]
    assert set(package_versions()) == {"nnunetv2", "torch"}
