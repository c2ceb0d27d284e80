"""The whole way from patients to an ensemble that predicts, with nnU-Net's own trainer, as a user walks it."""

import json
import logging
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inference import predict_scan
from petct.case import Tracer
from petct.folders import read_case
from petct.geometry import grid_of
from petct.manifest import Manifest, OrganTask, read_manifest
from segmentation.packed_model import Precision, read_packed_model
from segmentation.totalsegmentator import check_organ_weights
from segmentation.weight_files import check_files, check_member_files
from tiny_patients import write_patients, write_recipe
from tiny_training import quick_nnunet
from training.__main__ import main
from training.networks import trainer
from training.networks.trainer import ShortTrainer

BASE = Path(__file__).resolve().parent.parent / "resources" / "paper.toml"
PSMA = {"datasets": [901], "architectures": ["resenc_m"], "epochs": 3}
FDG = {"datasets": [802], "folds": [0, 1], "weight": 0.5}
ORGANS = {"datasets": [298], "patch_zyx": [8, 4, 4]}
ITERATIONS = 2


def run(command: str, *arguments: str, **options: Any) -> int:
    named = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    return main([command, *arguments, *named])


@dataclass(frozen=True)
class Workplace:
    """Patients, a recipe, and what the commands made of them.

    `epochs` are the epochs that were begun, as data set, fold and epoch, by each of the calls of `train`.
    """

    root: Path
    epochs: list[list[tuple[str, int, int]]]

    @property
    def options(self) -> dict[str, Path]:
        return {"recipe": self.root / "recipe.toml", "nnunet": self.root / "nnunet"}

    @property
    def manifest(self) -> Path:
        return self.root / "tiny.toml"

    @property
    def packing(self) -> dict[str, object]:
        case = self.root / "patients" / "train_0003"
        return {"base": BASE, "manifest": self.manifest, "warning": "For tests.", "case": case, **self.options}

    def checkpoint(self, dataset: str, plans: str) -> dict[str, Any]:
        folder = self.root / "nnunet" / "nnUNet_results" / dataset / f"ShortTrainer__{plans}__3d_fullres"
        content: dict[str, Any] = torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=False)
        return content


@pytest.fixture(scope="module")
def quick() -> Iterator[pytest.MonkeyPatch]:
    """What takes nnU-Net long and changes nothing that is looked at here."""
    with quick_nnunet() as patch:
        patch.setattr(trainer, "ITERATIONS_PER_EPOCH", ITERATIONS)
        threads = torch.get_num_threads()
        yield patch
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def trained(quick: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """Trained by two calls, the first of them killed after the second epoch of three."""
    root = tmp_path_factory.mktemp("training")
    workplace = Workplace(root, [])
    write_patients(root / "patients", count=5)
    write_recipe(root / "recipe.toml", PSMA, FDG, ORGANS)
    numbers = [str(*network["datasets"]) for network in (PSMA, FDG, ORGANS)]
    assert run("dataset", *numbers, patients=root / "patients", nnunet=root / "nnunet", processes=1) == 0

    def note_epoch(self: ShortTrainer) -> None:
        workplace.epochs[-1].append((self.plans_manager.dataset_name[:10], self.fold, self.current_epoch))
        begin_epoch(self)

    def end_epoch_and_die(self: ShortTrainer) -> None:
        end_epoch(self)
        if self.current_epoch == 2:
            raise KeyboardInterrupt

    begin_epoch, end_epoch = ShortTrainer.on_epoch_start, ShortTrainer.on_epoch_end
    quick.setattr(ShortTrainer, "on_epoch_start", note_epoch)
    quick.setattr(ShortTrainer, "on_epoch_end", end_epoch_and_die)
    workplace.epochs.append([])
    assert run("train", "--no-estimate", threads=1, **workplace.options) == 130  # as a shell shows Ctrl-C
    quick.setattr(ShortTrainer, "on_epoch_end", end_epoch)
    workplace.epochs.append([])
    assert run("train", threads=1, **workplace.options) == 0
    return workplace


@pytest.fixture(scope="module")
def packed(trained: Workplace) -> Manifest:
    assert run("pack", "--half", **trained.packing) == 0
    return read_manifest(trained.manifest)


def test_an_interrupted_training_goes_on_where_it_was(trained: Workplace) -> None:
    assert trained.epochs[0] == [("Dataset901", 0, 0), ("Dataset901", 0, 1)]
    assert trained.epochs[1] == [
        ("Dataset901", 0, 2),
        ("Dataset802", 0, 0),
        ("Dataset802", 1, 0),
        ("Dataset298", 0, 0),
    ]
    checkpoint = trained.checkpoint("Dataset901_PSMA_PET_binary", "nnUNetResEncUNetMPlansNarrow")
    assert len(checkpoint["logging"]["train_losses"]) == 3
    assert np.isfinite(checkpoint["logging"]["train_losses"]).all()
    # The optimiser counts its steps: those of all three epochs, not of the last one only.
    assert {int(state["step"]) for state in checkpoint["optimizer_state"]["state"].values()} == {3 * ITERATIONS}


def test_what_is_trained_is_not_trained_again(
    trained: Workplace, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    trained.epochs.append([])
    assert run("train", **trained.options, only=802) == 0
    assert capsys.readouterr().out.splitlines() == [
        "job               state",
        "plain_802_fold_0  finished",
        "plain_802_fold_1  finished",
        "0 of 2 are left: 2 finished.",
    ]
    with caplog.at_level(logging.INFO):
        assert run("train", **trained.options, only=802, folds=1) == 0
    assert "plain_802 fold 1 is trained already" in caplog.messages
    assert trained.epochs.pop() == []


def test_the_packed_ensemble_is_the_recipes(packed: Manifest) -> None:
    members = {tracer: packed.tracer(tracer).members for tracer in Tracer}
    found = {
        tracer: [(m.name, m.dataset_id, m.architecture, m.folds, m.organ_encoding, m.weight) for m in of_tracer]
        for tracer, of_tracer in members.items()
    }
    assert found == {
        Tracer.PSMA: [("resenc_m_901", 901, "resenc_m", (0,), "binary", 1.0)],
        Tracer.FDG: [("plain_802", 802, "plain", (0, 1), "none", 0.5)],
    }
    for member in (*members[Tracer.PSMA], *members[Tracer.FDG]):
        check_member_files(member)
        assert read_packed_model(member).stored_as is Precision.FLOAT16
    assert packed.organs.task is OrganTask.FASTEST
    check_organ_weights(packed.organs, where="organs")
    assert len(packed.organs.sha256) == 3


def test_name_and_warning_are_new_and_the_rules_are_the_bases(packed: Manifest, trained: Workplace) -> None:
    assert (packed.name, packed.warning) == ("tiny", "For tests.")
    base = read_manifest(BASE)
    assert packed.fdg.refinement == base.fdg.refinement
    assert packed.organs.weights == trained.root / "tiny" / "totalsegmentator"
    for tracer in Tracer:
        mine, theirs = packed.tracer(tracer), base.tracer(tracer)
        assert (mine.ttb_probability, mine.normal_probability) == (theirs.ttb_probability, theirs.normal_probability)
        assert (mine.regrow_radius_mm, mine.protected_organs) == (theirs.regrow_radius_mm, theirs.protected_organs)


@pytest.mark.parametrize("tracer", list(Tracer))
def test_the_packed_ensemble_predicts(packed: Manifest, trained: Workplace, tracer: Tracer) -> None:
    scan = read_case(trained.root / "patients" / "train_0003").scan(tracer)
    grid = grid_of(scan.pet)
    assert scan.organs is not None
    probabilities = predict_scan(scan, organs=scan.organs, manifest=packed, device=torch.device("cpu")).probabilities
    assert probabilities.shape == (3, *grid.shape_zyx)
    assert probabilities.min() >= 0.0
    np.testing.assert_allclose(probabilities.sum(axis=0), 1.0, atol=1e-5)
    assert probabilities.std() > 0.0


def test_packing_again_replaces_only_when_told_to(
    packed: Manifest, trained: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("pack", "--half", **trained.packing) == 1
    error = "tiny.toml must not exist yet; --overwrite replaces it and its weights\n"
    assert capsys.readouterr().err.endswith(error)
    assert run("pack", "--half", "--overwrite", **trained.packing) == 0
    # TotalSegmentator's own format is a zip file, which two writings may not make alike.
    again = read_manifest(trained.manifest)
    assert (again.psma, again.fdg) == (packed.psma, packed.fdg)
    check_organ_weights(again.organs, where="organs")


def test_one_results_folder_is_packed_and_its_digests_are_printed(
    trained: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (results,) = (trained.root / "nnunet" / "nnUNet_results" / "Dataset802_FDG_PET_none").iterdir()
    arguments = ["pack-model", str(results), "--folds", "1", "0", "--output", str(tmp_path / "mine"), "--half"]
    assert main([*arguments, "--clip", "-150", "250.5"]) == 0
    printed = tomllib.loads(capsys.readouterr().out)
    check_files(tmp_path / "mine", printed, where="mine")
    assert {file for file in printed if file.endswith("safetensors")} == {
        f"fold_{fold}/checkpoint_final.safetensors" for fold in (0, 1)
    }
    model = json.loads((tmp_path / "mine" / "model.json").read_text(encoding="utf-8"))
    assert model["ct_clip"] == {"low_hu": -150.0, "high_hu": 250.5}
    assert model["stored_as"] == "float16"
    # The container's user is not the one who packed.
    assert all(path.stat().st_mode & 0o004 for path in (tmp_path / "mine").rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("networks", "manifest", "error"),
    [
        ([PSMA], "new.toml", "recipe: must have a network for FDG, got none\n"),
        ([PSMA, FDG], "new", "--manifest: must be called <name>.toml, because its weights go to <name>, got new\n"),
        ([FDG, PSMA | {"folds": [0, 4]}], "new.toml", "resenc_m_901 fold 4: must be trained to its end in "),
    ],
)
def test_what_cannot_be_packed_leaves_nothing(
    trained: Workplace,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    networks: list[dict[str, object]],
    manifest: str,
    error: str,
) -> None:
    recipe = write_recipe(tmp_path / "other.toml", *networks)
    nnunet = trained.options["nnunet"]
    assert run("pack", recipe=recipe, nnunet=nnunet, base=BASE, manifest=tmp_path / manifest) == 1
    message = capsys.readouterr().err
    assert message.startswith(error)
    assert message.count("\n") == 1
    assert list(tmp_path.iterdir()) == [recipe]
