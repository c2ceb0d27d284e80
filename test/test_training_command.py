"""`python -m training`: what its arguments mean, and what it refuses before it starts."""

import argparse
import re
from pathlib import Path

import pytest

from tiny_patients import write_patient, write_recipe
from training.__main__ import main
from training.commands.arguments import seeds as parse_seeds


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("3", (3,)),
        ("0-4", (0, 1, 2, 3, 4)),
        ("7-7", (7,)),
        ("3,5,7", (3, 5, 7)),
        ("0-2,20,30-31", (0, 1, 2, 20, 30, 31)),
        ("9,0-2", (9, 0, 1, 2)),
    ],
)
def test_seeds(text: str, seeds: tuple[int, ...]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "must look like 0-39 or 3,5,7, got ''"),
        ("a", "must look like"),
        ("1.5", "must look like"),
        ("-3", "must look like"),
        ("1,,2", "must look like"),
        ("1-2-3", "must look like"),
        ("1-x", "must look like"),
        ("4,9-5", "must rise within a range, got '9-5'"),
        ("0-9,5", "must not repeat, got '0-9,5'"),
    ],
)
def test_seeds_that_are_refused(text: str, rule: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=re.escape(rule)):
        parse_seeds(text)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a call that must be refused says: one line on stderr."""
    assert main([str(argument) for argument in arguments]) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    return message.rstrip("\n")


@pytest.mark.parametrize("command", [("dataset", 801, "--nnunet", "nn"), ("judge",)])
def test_a_folder_without_patients_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: tuple[object, ...]
) -> None:
    (tmp_path / "train_0000").touch()  # a file is no patient
    error = f"{tmp_path}: must hold patients named train_XXXX, got none"
    assert refusal(capsys, *command, "--patients", tmp_path) == error


def test_an_unknown_dataset_is_refused_before_the_others_are_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_patient(tmp_path / "patients" / "train_0000")
    options = ("--patients", tmp_path / "patients", "--nnunet", tmp_path / "nnunet")
    error = "data set: must be one of 801, 802, 901, 902, 911, 912, 921, 922, 298, got 910"
    assert refusal(capsys, "dataset", 801, 910, *options) == error
    assert not (tmp_path / "nnunet").exists()


@pytest.mark.parametrize("command", [("train",), ("pack", "--manifest", "new.toml")])
def test_a_recipe_that_is_not_there_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: tuple[object, ...]
) -> None:
    recipe = tmp_path / "none.toml"
    options = ("--recipe", recipe, "--nnunet", tmp_path / "nnunet")
    assert refusal(capsys, *command, *options) == f"none.toml: recipe file is missing, got {recipe}"
    assert list(tmp_path.iterdir()) == []


def test_training_data_sets_that_the_recipe_lacks_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path / "recipe.toml", {"datasets": [901]}, {"datasets": [802]})
    options = ("--recipe", recipe, "--nnunet", tmp_path / "nnunet", "--only", 901, 922, 801)
    error = "--only: must be data sets of the recipe, which has 802, 901, got 801, 922"
    assert refusal(capsys, "train", *options) == error


def test_training_a_data_set_that_is_not_made_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "nnUNet_n_proc_DA"):
        monkeypatch.setenv(name, "")  # so that what the command sets is undone
    recipe = write_recipe(tmp_path / "recipe.toml", {"datasets": [901]})
    error = "plain_901: data set must be made first, by `python -m training dataset 901`"
    assert refusal(capsys, "train", "--recipe", recipe, "--nnunet", tmp_path / "nnunet") == error


def test_packing_onto_a_base_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe.toml", {"datasets": [901]}, {"datasets": [802]})
    options = ("--recipe", recipe, "--nnunet", tmp_path, "--manifest", tmp_path / "new.toml")
    error = refusal(capsys, "pack", *options, "--base", tmp_path / "none.toml")
    assert error == f"none.toml: manifest file is missing, got {tmp_path / 'none.toml'}"


def test_judging_for_a_file_that_cannot_be_written_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    error = refusal(capsys, "judge", "--patients", tmp_path, "--csv", tmp_path / "none" / "scores.csv")
    assert error == f"--csv: folder must exist, got {tmp_path / 'none'}"


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("train", "--recipe", "r.toml", "--nnunet", "nn", "--threads", "0"),
        ("phantom", "--seeds", "0-3", "--output", "out", "--processes", "-1"),
        ("phantom", "--seeds", "3-0", "--output", "out"),
        ("judge", "--patients", "p", "--device", "tpu"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(list(arguments))
    assert "error: " in capsys.readouterr().err
