import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from safetensors import safe_open

from petct.channels import ClipHU
from petct.errors import CaseError
from petct.manifest import Architecture, Member
from segmentation.packed_model import build_network, load_fold, read_packed_model
from segmentation.weight_files import check_files, check_member_files
from tiny_nnunet import CONFIGURATION, make_member, make_results
from training.__main__ import main
from training.weights.code_version import code_version, package_versions
from training.weights.pack import pack_model

CHECKPOINT = "checkpoint_final.pth"


@pytest.fixture(scope="module", params=list(Architecture))
def architecture(request: pytest.FixtureRequest) -> Architecture:
    return Architecture(request.param)


@pytest.fixture(scope="module")
def results(architecture: Architecture, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_results(tmp_path_factory.mktemp("results"), architecture=architecture, dataset_id=801, folds=(0,))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("plain")
    return make_results(root, architecture=Architecture.PLAIN, dataset_id=801, folds=(0, 1))


def pack_plain(plain: Path, destination: Path, **changes: Any) -> dict[str, str]:
    arguments: dict[str, Any] = {"folds": (0,), "destination": destination, "clip": None, "provenance": {}}
    return pack_model(plain, **(arguments | changes))


def nnunets_network(results: Path) -> torch.nn.Module:
    """The network as nnU-Net's own predictor builds and fills it."""
    plans = PlansManager(str(results / "plans.json"))
    network = nnUNetTrainer.build_network_architecture(plans, plans.get_configuration(CONFIGURATION), 2, 3, False)
    checkpoint = torch.load(results / "fold_0" / CHECKPOINT, weights_only=False)
    network.load_state_dict(checkpoint["network_weights"])
    return network.eval()


def packed_network(member: Member) -> torch.nn.Module:
    model = read_packed_model(member)
    network = build_network(model.configuration, model.dataset)
    load_fold(network, model, fold=0)
    return network


@torch.no_grad()
def logits(network: torch.nn.Module) -> torch.Tensor:
    return network(torch.randn(1, 2, 16, 24, 32, generator=torch.Generator().manual_seed(0)))


def test_logits_stay_bit_for_bit(results: Path, architecture: Architecture, tmp_path: Path) -> None:
    member = make_member(results, tmp_path / "packed", architecture=architecture, dataset_id=801, folds=(0,))
    expected = logits(nnunets_network(results))
    assert expected.shape == (1, 3, 16, 24, 32)
    assert torch.equal(logits(packed_network(member)), expected)


def test_every_weight_is_stored_once(results: Path, tmp_path: Path) -> None:
    pack_plain(results, tmp_path / "packed")
    with safe_open(tmp_path / "packed" / "fold_0" / "checkpoint_final.safetensors", framework="pt") as stored:
        stored_values = sum(stored.get_tensor(name).numel() for name in stored.keys())  # noqa: SIM118 it is no mapping
    assert stored_values == sum(parameter.numel() for parameter in nnunets_network(results).parameters())


def test_a_packed_model_is_what_its_manifest_says(results: Path, architecture: Architecture, tmp_path: Path) -> None:
    member = make_member(results, tmp_path / "packed", architecture=architecture, dataset_id=801, folds=(0,))
    check_member_files(member)
    assert set(member.sha256) == {"plans.json", "dataset.json", "model.json", "fold_0/checkpoint_final.safetensors"}
    assert [path.name for path in tmp_path.iterdir()] == ["packed"]


def test_packing_again_gives_the_same_files(plain: Path, tmp_path: Path) -> None:
    assert pack_plain(plain, tmp_path / "a", folds=(0, 1)) == pack_plain(plain, tmp_path / "b", folds=(0, 1))


def test_half_precision_is_half_the_size_and_nearly_the_same(plain: Path, tmp_path: Path) -> None:
    whole = make_member(plain, tmp_path / "whole", architecture=Architecture.PLAIN, dataset_id=801, folds=(0,))
    half = replace(whole, folder=tmp_path / "half", sha256=pack_plain(plain, tmp_path / "half", half=True))
    sizes = [(m.folder / "fold_0" / "checkpoint_final.safetensors").stat().st_size for m in (whole, half)]
    assert sizes[1] < 0.65 * sizes[0]  # the header, with the names, does not shrink
    expected, rounded = logits(packed_network(whole)), logits(packed_network(half))
    assert not torch.equal(rounded, expected)
    assert (rounded - expected).abs().max() < 0.02 * expected.abs().max()


def test_what_the_model_was_trained_with_is_recorded(plain: Path, tmp_path: Path) -> None:
    member = make_member(plain, tmp_path / "as_is", architecture=Architecture.PLAIN, dataset_id=801, folds=(0,))
    model = read_packed_model(member)
    assert (model.mirroring_axes, model.clip) == ((0, 2), None)
    pack_plain(plain, tmp_path / "clipped", clip=ClipHU(-900.5, 250.0), provenance={"data": "phantoms"})
    clipped = read_packed_model(replace(member, folder=tmp_path / "clipped"))
    assert clipped.clip == ClipHU(-900.5, 250.0)
    record = json.loads((tmp_path / "clipped" / "model.json").read_text())
    assert record["provenance"] == {
        "trainer": "nnUNetTrainer",
        "data": "phantoms",
        "checkpoint": "final",
        "folds": {"0": {}},
        "packed_by": code_version(),
        "packed_with": package_versions(),
    }


def test_a_trainer_that_nnunet_does_not_know_and_no_mirroring(plain: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    shutil.copytree(plain, results)
    change_checkpoint(results, trainer_name="TrainerOfMine", inference_allowed_mirroring_axes=None)
    member = make_member(results, tmp_path / "packed", architecture=Architecture.PLAIN, dataset_id=801, folds=(0,))
    assert read_packed_model(member).mirroring_axes == ()
    assert torch.equal(logits(packed_network(member)), logits(nnunets_network(plain)))


def test_an_existing_folder_is_kept_unless_told_otherwise(plain: Path, tmp_path: Path) -> None:
    destination = tmp_path / "packed"
    destination.mkdir()
    (destination / "old").touch()
    with pytest.raises(CaseError, match="folder to pack into must not exist yet"):
        pack_plain(plain, destination)
    assert (destination / "old").exists()
    pack_plain(plain, destination, overwrite=True)
    assert not (destination / "old").exists()


@pytest.mark.parametrize("renamings", [0, 1])
def test_a_crash_keeps_the_old_folder(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renamings: int
) -> None:
    before = pack_plain(plain, tmp_path / "packed")
    rename, left = Path.rename, [renamings]

    def rename_or_die(path: Path, target: Path) -> Path:
        left[0] -= 1
        if left[0] == -1:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", rename_or_die)
    with pytest.raises(KeyboardInterrupt):
        pack_plain(plain, tmp_path / "packed", overwrite=True, half=True)
    check_files(tmp_path / "packed", before, where="packed")
    assert [path.name for path in tmp_path.iterdir()] == ["packed"]


def test_an_old_folder_that_a_killed_packing_set_aside_comes_back(plain: Path, tmp_path: Path) -> None:
    before = pack_plain(plain, tmp_path / "packed")
    (tmp_path / "packed").rename(tmp_path / ".packed.old")
    with pytest.raises(CaseError, match="folder to pack into must not exist yet"):
        pack_plain(plain, tmp_path / "packed")
    check_files(tmp_path / "packed", before, where="packed")


def change_checkpoint(results: Path, *, fold: int = 0, **changes: Any) -> None:
    path = results / f"fold_{fold}" / CHECKPOINT
    torch.save(torch.load(path, weights_only=False) | changes, path)


@pytest.mark.parametrize(
    ("value", "half", "rule"),
    [(float("nan"), False, "must be finite as float32"), (1e5, True, "must be finite as float16")],
)
def test_weights_that_are_not_finite_are_refused(
    plain: Path, tmp_path: Path, value: float, half: bool, rule: str
) -> None:
    results = tmp_path / "results"
    shutil.copytree(plain, results)
    weights = torch.load(results / "fold_0" / CHECKPOINT, weights_only=False)["network_weights"]
    weights["decoder.seg_layers.1.bias"][1] = value
    change_checkpoint(results, network_weights=weights)
    with pytest.raises(CaseError, match=rf"tensor decoder\.seg_layers\.1\.bias {rule}"):
        pack_plain(results, tmp_path / "packed", half=half)
    assert [path.name for path in tmp_path.iterdir()] == ["results"]  # nothing half-written stays


@pytest.mark.parametrize("clip", [("250", "-150"), ("5", "5"), ("5", "inf"), ("nan", "250")])
def test_a_clip_of_the_command_must_rise(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], clip: tuple[str, str]
) -> None:
    arguments = ["pack-model", str(plain), "--folds", "0", "--output", str(tmp_path / "packed"), "--clip", *clip]
    assert main(arguments) == 1
    assert capsys.readouterr().err.startswith("--clip: must be two numbers that rise, got ")
    assert list(tmp_path.iterdir()) == []


def test_weights_of_another_network_are_refused(plain: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    shutil.copytree(plain, results)
    weights = torch.load(results / "fold_0" / CHECKPOINT, weights_only=False)["network_weights"]
    del weights["decoder.seg_layers.1.bias"]
    change_checkpoint(results, network_weights=weights)
    with pytest.raises(CaseError, match=r"weights must fit the network of the plans, got .*seg_layers\.1\.bias"):
        pack_plain(results, tmp_path / "packed")


def test_folds_of_two_trainings_are_refused(plain: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    shutil.copytree(plain, results)
    change_checkpoint(results, fold=1, inference_allowed_mirroring_axes=(0, 1, 2))
    with pytest.raises(CaseError, match="fold 1 must come from the same training as the first"):
        pack_plain(results, tmp_path / "packed", folds=(0, 1))


@pytest.mark.parametrize(("key", "file"), [("plans", "plans.json"), ("dataset_json", "dataset.json")])
def test_a_fold_of_other_plans_or_data_is_refused(plain: Path, tmp_path: Path, key: str, file: str) -> None:
    results = tmp_path / "results"
    shutil.copytree(plain, results)
    own = json.loads((results / file).read_text(encoding="utf-8"))
    init_args = {"configuration": CONFIGURATION, "fold": 1, key: own | {"continue_training": True}}
    change_checkpoint(results, fold=1, init_args=init_args)
    pack_plain(results, tmp_path / "packed", folds=(0, 1))  # one that went on is of the same training
    change_checkpoint(results, fold=1, init_args=init_args | {key: own | {"image_reader_writer": "NibabelIO"}})
    rule = rf"fold 1: must be trained with the {file} beside it, which is of another training"
    with pytest.raises(CaseError, match=rule):
        pack_plain(results, tmp_path / "again", folds=(0, 1))


@pytest.mark.parametrize(
    ("content", "rule"),
    [(b"", "must be readable"), (b"PK not a zip", "must be readable"), ({"network_weights": {}}, "must be nnU-Net's")],
)
def test_a_damaged_checkpoint_is_named(plain: Path, tmp_path: Path, content: Any, rule: str) -> None:
    results = tmp_path / "results"
    shutil.copytree(plain, results)
    path = results / "fold_1" / CHECKPOINT
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(CaseError, match=f"fold 1: {CHECKPOINT} {rule}"):
        pack_plain(results, tmp_path / "packed", folds=(0, 1))
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_what_is_not_there_is_named(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(CaseError, match=r"file is missing: .*fold_4/checkpoint_final\.pth$"):
        pack_plain(plain, tmp_path / "packed", folds=(0, 4))
    with pytest.raises(CaseError, match=r"file is missing: .*fold_0/checkpoint_best\.pth$"):
        pack_plain(plain, tmp_path / "packed", checkpoint="best")
    with pytest.raises(CaseError, match="at least one fold must be packed"):
        pack_plain(plain, tmp_path / "packed", folds=())
    assert list(tmp_path.iterdir()) == []
