"""`python -m training train` with nnU-Net's own trainers on a tiny data set: to its end, interrupted, broken."""

import json
import logging
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from petct.manifest import Architecture
from tiny_patients import write_recipe
from tiny_training import make_dataset, quick_nnunet
from training.__main__ import main
from training.datasets.descriptions import dataset_name
from training.datasets.provenance import PROVENANCE_NAME
from training.datasets.staleness import note_former_version
from training.networks import estimate
from training.networks.checkpoints import FINAL, next_epoch
from training.networks.command_lines import CommandLine
from training.networks.estimate import measure_all
from training.networks.gpu_queue import BUSY_CODE
from training.networks.jobs import Job, Progress, State, Validation, choose_jobs, look
from training.networks.recipe import TrainerName, read_recipe
from training.networks.train import build_trainer

OWN = {"datasets": [801], "trainer": "nnUNetTrainer", "iterations": 1, "folds": [0, 1]}
EPOCHS_250 = {"datasets": [801], "trainer": "nnUNetTrainer_250epochs", "iterations": 1}
SHORT = {"datasets": [801], "iterations": 1}


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with quick_nnunet() as patch:
        threads = torch.get_num_threads()
        yield patch
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def nnunet(patch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training_run") / "nnunet"
    make_dataset(folder, number=801)
    return folder


@pytest.fixture(autouse=True)
def no_results(nnunet: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test begins without results."""
    for name in ("nnUNet_n_proc_DA", "nnUNet_def_n_proc"):
        monkeypatch.delenv(name, raising=False)
    yield
    for path in sorted((nnunet / "nnUNet_results").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


@pytest.fixture
def short_scratch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files with a short name: torch's sockets in it may not have more than 108 bytes."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def train(recipe: Path, nnunet: Path, *options: object, device: str = "cpu") -> int:
    arguments = ["train", "--recipe", recipe, "--nnunet", nnunet, "--device", device, "--threads", 1, *options]
    return main([str(argument) for argument in arguments])


def refusal(capsys: pytest.CaptureFixture[str], recipe: Path, nnunet: Path, *options: object) -> str:
    capsys.readouterr()
    assert train(recipe, nnunet, *options) == 1
    return capsys.readouterr().err.rstrip("\n")


def folder_of(recipe: Path, nnunet: Path, *, fold: int = 0) -> Path:
    return Job(read_recipe(recipe)[0], fold).folder(nnunet)


def test_the_real_trainer_trains_and_validates_and_is_not_asked_twice(
    nnunet: Path, tmp_path: Path, short_scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path / "recipe.toml", OWN)
    assert train(recipe, nnunet) == 0
    printed = capsys.readouterr().out.splitlines()
    row = re.compile(r"plain_801_fold_([01])  +([\d.e+-]+)  +(\d+ (?:s|min))  new, 1 epochs")
    rows = [match for line in printed if (match := row.fullmatch(line))]
    assert [match[1] for match in rows] == ["0", "1"]
    assert all(0 < float(match[2]) < 60 for match in rows)
    assert printed[-1] == "2 done, 0 in training by another process, 0 failed"
    assert [path for path in short_scratch.iterdir() if path.name.startswith("estimate_")] == []
    results = folder_of(recipe, nnunet).parent
    assert [path.name for path in results.parent.iterdir()] == ["nnUNetTrainer__nnUNetPlansNarrow__3d_fullres"]
    assert sorted(path.name for path in results.glob("[.f]*")) == ["fold_0", "fold_1"]
    for fold in (0, 1):
        content = torch.load(results / f"fold_{fold}" / FINAL, weights_only=False)
        assert content["trainer_name"] == "nnUNetTrainer"
        assert len(content["logging"]["train_losses"]) == 1
        summary = json.loads((results / f"fold_{fold}" / "validation" / "summary.json").read_text(encoding="utf-8"))
        assert 0.0 <= summary["foreground_mean"]["Dice"] <= 1.0
        assert not list((results / f"fold_{fold}").glob(".*"))

    # What is finished stays, and a validation that is missing is made without a training.
    before = {path: path.stat().st_mtime_ns for path in results.rglob("checkpoint_final.pth")}
    (results / "fold_1" / "validation" / "summary.json").unlink()
    assert train(recipe, nnunet, "--dry-run", "--skip-validation") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "0 of 2 are left: 2 finished."
    assert train(recipe, nnunet) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "plain_801_fold_1  trained, to be validated" in [re.sub("  +", "  ", line) for line in lines]
    assert (results / "fold_1" / "validation" / "summary.json").exists()
    assert {path: path.stat().st_mtime_ns for path in results.rglob("checkpoint_final.pth")} == before
    assert train(recipe, nnunet) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "0 of 2 are left: 2 finished."


def test_broken_checkpoints_are_named_and_the_training_starts_again(
    nnunet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    recipe = write_recipe(tmp_path / "recipe.toml", EPOCHS_250)
    folder = folder_of(recipe, nnunet)
    folder.mkdir(parents=True)
    for name in (FINAL, "checkpoint_latest.pth"):
        (folder / name).write_bytes(b"PK\x03\x04 and then the power went")
    assert train(recipe, nnunet, "--skip-validation") == 0
    assert f"{folder}: no checkpoint can be read, the training starts again at epoch 0" in caplog.messages
    assert next_epoch(folder / FINAL) == 1
    assert torch.load(folder / FINAL, weights_only=False)["trainer_name"] == "nnUNetTrainer_250epochs"
    assert not (folder / "validation").exists()


def test_a_failed_training_is_named_and_the_others_go_on(
    nnunet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail_in_fold_0(trainer: Any, batch: dict[str, Any]) -> Any:
        if trainer.fold == 0:
            raise RuntimeError("CUDA error:\nan illegal memory access")
        return step(trainer, batch)

    step = nnUNetTrainer.train_step
    monkeypatch.setattr(nnUNetTrainer, "train_step", fail_in_fold_0)
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    recipe = write_recipe(tmp_path / "recipe.toml", OWN)
    assert train(recipe, nnunet, "--no-estimate", "--skip-validation") == 1
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "plain_801_fold_0 failed: RuntimeError: CUDA error: an illegal memory access",
        "1 done, 0 in training by another process, 1 failed",
    ]
    states = [look(Job(read_recipe(recipe)[0], fold), nnunet=nnunet, validation=Validation.NONE) for fold in (0, 1)]
    assert [progress.state for progress in states] == [State.NEW, State.FINISHED]


def test_what_is_stopped_goes_on_and_is_not_trained_twice_meanwhile(
    nnunet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    recipe = write_recipe(tmp_path / "recipe.toml", SHORT | {"folds": [0, 1], "epochs": 100_000})
    assert train(recipe, nnunet, "--print-commands") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.replace("--folds 0", "--folds 1") == second
    # As a user would run the line, and stop it.
    process = subprocess.Popen(
        ["bash", "-c", first.replace("&& ", "&& exec ", 1)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    latest = folder_of(recipe, nnunet) / "checkpoint_latest.pth"
    while not latest.exists():
        assert process.poll() is None, process.stdout and process.stdout.read()
        time.sleep(0.05)
    assert train(recipe, nnunet, "--folds", 0) == BUSY_CODE
    assert caplog.messages[-1].startswith("plain_801_fold_0: in training by another process: ")
    assert f"process {process.pid} on " in caplog.messages[-1]
    assert train(recipe, nnunet, "--dry-run") == 0
    assert f"in training by process {process.pid} on " in capsys.readouterr().out
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert output.splitlines()[-1].endswith(" stopped; the same command goes on where it was")
    assert "Traceback" not in output

    epoch = next_epoch(latest)
    assert epoch is not None
    assert train(recipe, nnunet, "--dry-run") == 0
    assert f"goes on at epoch {epoch} of 100000" in capsys.readouterr().out
    write_recipe(recipe, SHORT | {"epochs": epoch + 2})
    with caplog.at_level(logging.INFO):
        assert train(recipe, nnunet) == 0
    assert f"plain_801 fold 0 goes on at epoch {epoch}" in caplog.messages
    content = torch.load(folder_of(recipe, nnunet) / FINAL, weights_only=False)
    assert len(content["logging"]["train_losses"]) == epoch + 2


def test_gpus_are_given_one_process_each_with_a_log_of_its_own(
    nnunet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def on_cpu_for_fold_0(lines: CommandLine, job: Job) -> tuple[str, ...]:
        return of(replace(lines, device="cpu") if job.fold == 0 else lines, job)

    of = CommandLine.of
    monkeypatch.setattr(CommandLine, "of", on_cpu_for_fold_0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    recipe = write_recipe(tmp_path / "recipe.toml", SHORT | {"folds": [0, 1]})
    assert train(recipe, nnunet, "--gpus", "0,1", "--no-estimate", device="auto") == 1
    refused = "--device: CUDA must be available when it is asked for, got no CUDA device"
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"plain_801_fold_1 failed: exit code 1: {refused}",
        "1 done, 0 in training by another process, 1 failed",
    ]
    assert "Training done." in (nnunet / "logs" / "plain_801_fold_0.log").read_text(encoding="utf-8")
    assert next_epoch(folder_of(recipe, nnunet) / FINAL) == 1


def test_commands_for_gpus_take_them_in_turn(
    nnunet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path / "recipe.toml", OWN | {"folds": [0, 1, 2]}, SHORT | {"folds": [3], "weight": 2})
    options = ("--print-commands", "--gpus", "2,5", "--validate-all")
    assert train(recipe, nnunet, *options, device="auto") == 0
    lines = capsys.readouterr().out.splitlines()
    found = [re.search(r"CUDA_VISIBLE_DEVICES=(\d) .* --only (\S+) --folds (\d) --device cuda", line) for line in lines]
    assert [match and match.groups() for match in found] == [
        ("2", "plain_801_fold_0_1_2", "0"),
        ("5", "plain_801_fold_0_1_2", "1"),
        ("2", "plain_801_fold_0_1_2", "2"),
        ("5", "plain_801_fold_3", "3"),
    ]
    assert all(line.endswith(" --threads 1 --validate-all --no-estimate") for line in lines)


def test_slurm_gets_what_is_left(
    nnunet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, script in {"srun": "", "sbatch": f'cp "${{@: -1}}" {tmp_path}/submitted; echo Submitted job 5'}.items():
        (tools / name).write_text(f"#!/bin/bash\n{script}\n", encoding="utf-8")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    recipe = write_recipe(tmp_path / "recipe.toml", OWN | {"folds": [0, 1, 2, 3]})
    slurm = ("--slurm", tmp_path / "slurm", "--slurm-partition", "a100", "--slurm-time", "1-00", "--slurm-at-once", 3)
    assert train(recipe, nnunet, *slurm, "--slurm-option", "account=me", device="auto") == 0
    assert "4 of 4 are left: 4 new." in capsys.readouterr().out
    script = (tmp_path / "submitted").read_text(encoding="utf-8")
    for line in ("--array=0-3%3", "--partition=a100", "--time=1440", "--account=me", "--gpus-per-node=1"):
        assert f"#SBATCH {line}\n" in script
    assert len(list((tmp_path / "slurm").glob("5_*_submitted.pkl"))) == 4
    error = "--slurm-option: must be KEY=VALUE, got account"
    assert refusal(capsys, recipe, nnunet, *slurm, "--slurm-option", "account") == error


def test_the_epochs_of_the_table_are_those_of_nnunets_trainers(nnunet: Path, tmp_path: Path) -> None:
    network = replace(read_recipe(write_recipe(tmp_path / "recipe.toml", SHORT))[0], epochs=None)
    for name in TrainerName:
        one = replace(network, trainer=name)
        trainer = build_trainer(one, fold=0, nnunet=nnunet, device=torch.device("cpu"))
        assert Job(one, 0).epochs == trainer.num_epochs


def test_networks_of_one_kind_are_measured_once(
    nnunet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setattr(estimate, "LIMIT_S", 0.0)  # one iteration is measured all the same
    wide = OWN | {"architectures": ["resenc_m"], "folds": [0]}
    jobs = choose_jobs(read_recipe(write_recipe(tmp_path / "r.toml", OWN, EPOCHS_250, wide)), only=(), folds=())
    progress = [look(job, nnunet=nnunet, validation=Validation.OWN) for job in jobs]
    with caplog.at_level(logging.INFO):
        speeds = measure_all(progress, nnunet=nnunet, device=torch.device("cpu"), gpu=None)
    measured = [message for message in caplog.messages if message.startswith("measuring")]
    assert measured == [
        "measuring a few iterations of plain_801 (1 of 2)",
        "measuring a few iterations of resenc_m_801 (2 of 2)",
    ]
    assert list(speeds) == [job.name for job in jobs]
    assert all(speed is not None and 0.0 < speed.iteration_s < speed.epoch_s < 600.0 for speed in speeds.values())
    # What needs no epochs is not measured.
    done = [Progress(jobs[0], state, 1, "") for state in (State.FINISHED, State.TO_VALIDATE, State.BUSY)]
    assert measure_all(done, nnunet=nnunet, device=torch.device("cpu"), gpu=None) == {}


@pytest.mark.parametrize(
    ("work", "error"),
    [
        (partial(os.getenv, "CUDA_VISIBLE_DEVICES"), "^GPU-3$"),  # whatever is no speed comes back as what went wrong
        (partial(os._exit, 9), "its process ended with exit code 9"),
    ],
)
def test_a_gpu_is_measured_in_a_process_of_its_own(work: Any, error: str) -> None:
    with pytest.raises(RuntimeError, match=error):
        estimate._in_process_on("GPU-3", work)
    assert os.environ.get("CUDA_VISIBLE_DEVICES") != "GPU-3"


def test_a_network_that_cannot_be_measured_is_said_so(
    nnunet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(trainer: Any, batch: object) -> None:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(nnUNetTrainer, "train_step", fail)
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    recipe = write_recipe(tmp_path / "recipe.toml", OWN)
    assert train(recipe, nnunet, "--estimate-only") == 1
    printed = capsys.readouterr().out
    assert "2 could not be measured" in printed
    assert re.search(r"plain_801_fold_0 +\? +\?  new, 1 epochs", printed)
    assert os.environ["nnUNet_results"] == str(nnunet / "nnUNet_results")
    assert not any((nnunet / "nnUNet_results").rglob("*.pth"))


def test_a_fold_beyond_the_splits_is_refused(nnunet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(tmp_path / "recipe.toml", OWN | {"folds": [0, 7]})
    expected = "plain_801 fold 7: fold must be one of Dataset801_PSMA_PET_none's 5, 0-4, got 7"
    assert refusal(capsys, recipe, nnunet) == expected
    assert not any((nnunet / "nnUNet_results").iterdir())


def test_results_of_a_data_set_that_was_made_anew_are_refused(
    nnunet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path / "recipe.toml", OWN)
    folder = folder_of(recipe, nnunet, fold=1)
    folder.mkdir(parents=True)
    note_former_version(nnunet, number=801)
    provenance = nnunet / "nnUNet_raw" / dataset_name(801) / PROVENANCE_NAME
    text = provenance.read_text(encoding="utf-8")
    markers = [nnunet / "nnUNet_preprocessed" / dataset_name(801) / f"preprocessing_{x}" for x in ("begun", "done")]
    try:
        provenance.write_text(text.replace("5" * 64, "6" * 64), encoding="utf-8")
        expected = "plain_801: data set must be made first, by `python -m training dataset 801`"
        assert refusal(capsys, recipe, nnunet) == expected
        for marker in markers:
            marker.write_text("6" * 64, encoding="ascii")
        expected = "results are of a former version of the data set; remove their folder to train again"
        assert refusal(capsys, recipe, nnunet) == f"plain_801_fold_1: {expected}, got {folder}"
    finally:
        provenance.write_text(text, encoding="utf-8")
        for marker in markers:
            marker.write_text("5" * 64, encoding="ascii")


def test_missing_plans_are_refused(nnunet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(tmp_path / "recipe.toml", OWN | {"architectures": [Architecture.RESENC_L]})
    plans = nnunet / "nnUNet_preprocessed" / dataset_name(801) / "nnUNetResEncUNetLPlans.json"
    hidden = plans.with_suffix(".hidden")
    plans.rename(hidden)
    try:
        expected = "plans must be made first, by `python -m training dataset 801`"
        assert refusal(capsys, recipe, nnunet) == f"resenc_l_801 nnUNetResEncUNetLPlans.json: {expected}"
    finally:
        hidden.rename(plans)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (("--gpus", "0"), "--gpus: must not come with --device cpu, got 0"),
        (("--only", "x"), "--only: must be networks or data sets of the recipe, which has plain_801, got x"),
        (("--folds", 3), "--folds: must be folds of the networks chosen, which have 0, 1, got 3"),
    ],
)
def test_what_is_asked_for_and_cannot_be(
    nnunet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[object, ...], error: str
) -> None:
    assert refusal(capsys, write_recipe(tmp_path / "recipe.toml", OWN), nnunet, *options) == error


@pytest.mark.parametrize("gpus", ["", "0,,1", "0,0"])
def test_gpus_that_mean_nothing_are_refused(
    nnunet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], gpus: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        train(write_recipe(tmp_path / "recipe.toml", OWN), nnunet, "--gpus", gpus)
    assert "must be GPUs like 0,1,3, each once" in capsys.readouterr().err
