import re
from pathlib import Path

import pytest

from petct.case import Tracer
from petct.channels import OrganEncoding
from petct.errors import CaseError
from petct.manifest import Architecture, read_manifest
from tiny_patients import write_recipe
from training.datasets.descriptions import LESION_DATASETS, ORGAN_DATASET_ID
from training.datasets.planning import NarrowNetwork
from training.networks.recipe import NetworkRecipe, TrainerName, read_recipe

ROOT = Path(__file__).resolve().parent.parent
RECIPES = ROOT / "training" / "recipes"
SHIPPED = RECIPES / "demo.toml"


def test_every_value_arrives_where_it_belongs(tmp_path: Path) -> None:
    values = {
        "datasets": [922],
        "architectures": ["resenc_l"],
        "trainer": "ShortTrainer",
        "folds": [3, 1],
        "epochs": 7,
        "iterations": 9,
        "weight": 2,
        "focus": "ttb",
        "features": [8, 16, 16, 24],
        "blocks": [1, 2, 2, 5],
        "patch_zyx": [48, 16, 32],
        "batch_size": 4,
    }
    first, second = read_recipe(write_recipe(tmp_path / "recipe.toml", values, {"datasets": [801]}))
    assert first == NetworkRecipe(
        name="resenc_l_922",
        dataset=922,
        architecture=Architecture.RESENC_L,
        trainer=TrainerName.SHORT,
        folds=(3, 1),
        weight=2.0,
        epochs=7,
        iterations=9,
        focus="ttb",
        narrow=NarrowNetwork(features=(8, 16, 16, 24), blocks=(1, 2, 2, 5), patch_zyx=(48, 16, 32), batch_size=4),
    )
    assert (first.name, second.name, second.focus) == ("resenc_l_922", "plain_801", "")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (
            {"datasets": ["901"]},
            "recipe.toml [networks 1] datasets: must be a list of whole numbers >= 0, at least one",
        ),
        (
            {"architectures": ["resenc_xl"]},
            "architectures: must name one or more of plain, resenc_m, resenc_l, got ['resenc_xl']",
        ),
        ({"architectures": ["plain", "plain"]}, "architectures: must not repeat a name"),
        (
            {"trainer": "nnUNetTrainerMy"},
            "trainer: must be one of nnUNetTrainer, nnUNetTrainer_250epochs, ShortTrainer",
        ),
        ({"trainer": "nnUNetTrainer", "focus": "ttb"}, "focus must come with trainer ShortTrainer, got nnUNetTrainer"),
        ({"folds": []}, "folds: must be a list of whole numbers >= 0, at least one, got []"),
        ({"folds": [0, 0]}, "folds: must not repeat a number, got [0, 0]"),
        ({"folds": [-1]}, "folds: must be a list of whole numbers >= 0, at least one, got [-1]"),
        ({"epochs": 1.5}, "epochs: must be a whole number, got 1.5"),
        ({"epochs": -1}, "epochs: must be >= 0, got -1"),
        ({"weight": 0}, "weight: must be > 0, got 0.0"),
        ({"features": 8}, "features: must be a list of whole numbers, got 8"),
        ({"blocks": [1, "2", 1]}, "blocks: must be a list of whole numbers >= 0, at least one"),
        ({"patch_zyx": [8, 8]}, "recipe.toml: patch_zyx must have three numbers, got (8, 8)"),
        ({"patch_zyx": [8, 8, 8, 8]}, "recipe.toml: patch_zyx must have three numbers, got (8, 8, 8, 8)"),
        ({"batch_size": True}, "batch_size: must be a whole number, got True"),
        ({"datasets": [910]}, "data set: must be one of 801, 802, 901, 902, 911, 912, 921, 922, 298, got 910"),
        (
            {"features": [4, 8]},
            "recipe.toml plain_901: features must have three stages or more, or nnU-Net's loss is nan",
        ),
        ({"blocks": [1, 1]}, "recipe.toml plain_901: blocks must have a number for each of 3 stages, got 2"),
        ({"patch_zyx": [4, 6, 8]}, "recipe.toml plain_901: patch_zyx must be divisible by 4, got (4, 6, 8)"),
        ({"epochs": 0}, "epochs must be >= 1, got 0"),
        ({"iterations": 0}, "iterations must be >= 1, got 0"),
        ({"patch_zyx": [4, 0, 8]}, "must be >= 1, got 0"),
        ({"datasets": [298], "folds": [0, 1]}, "plain_298: organ network must have one fold"),
        ({"mirroring": 1}, "recipe.toml [networks 1]: key is not known, got mirroring"),
    ],
)
def test_what_is_refused(tmp_path: Path, change: dict[str, object], error: str) -> None:
    recipe = write_recipe(tmp_path / "recipe.toml", change)
    with pytest.raises(CaseError, match=re.escape(error)):
        read_recipe(recipe)


@pytest.mark.parametrize("key", ["datasets", "architectures", "trainer", "folds", "weight"])
def test_a_missing_key_is_refused(tmp_path: Path, key: str) -> None:
    recipe = write_recipe(tmp_path / "recipe.toml", {})
    lines = recipe.read_text(encoding="utf-8").splitlines()
    recipe.write_text("\n".join(line for line in lines if not line.startswith(f"{key} =")), encoding="utf-8")
    with pytest.raises(CaseError, match=re.escape(f"recipe.toml [networks 1]: key {key} is missing")):
        read_recipe(recipe)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "recipe.toml: key networks is missing"),
        ("networks = []", "recipe.toml networks: must be a list of tables, at least one, got []"),
        ("networks = [", "recipe.toml: recipe must be TOML in UTF-8, got "),
        (
            "{recipe}\n{recipe}",
            "recipe.toml: must have each fold of a data set, architecture and trainer once, got plain_901",
        ),
        ("network = 1\n{recipe}", "recipe.toml: key is not known, got network"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, text: str, error: str) -> None:
    recipe = write_recipe(tmp_path / "recipe.toml", {})
    recipe.write_text(text.format(recipe=recipe.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(CaseError, match=re.escape(error)):
        read_recipe(recipe)


def test_a_recipe_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match=r"none\.toml: recipe file is missing, got .*none\.toml"):
        read_recipe(tmp_path / "none.toml")


def test_a_block_is_a_matrix(tmp_path: Path) -> None:
    block = {"datasets": [801, 922], "architectures": ["plain", "resenc_m"], "trainer": "nnUNetTrainer_250epochs"}
    networks = read_recipe(write_recipe(tmp_path / "recipe.toml", block))
    assert [network.name for network in networks] == [
        "plain_801_250epochs", "resenc_m_801_250epochs", "plain_922_250epochs", "resenc_m_922_250epochs",
    ]  # fmt: skip


def test_members_of_one_model_are_told_apart_by_their_folds(tmp_path: Path) -> None:
    networks = read_recipe(write_recipe(tmp_path / "recipe.toml", {"folds": [0]}, {"folds": [1, 2], "weight": 2}))
    assert [(network.name, network.model) for network in networks] == [
        ("plain_901_fold_0", "plain_901"),
        ("plain_901_fold_1_2", "plain_901"),
    ]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (
            {"batch_size": 3},
            "networks of one data set and architecture must be equally narrow, got two kinds of plain_901",
        ),
        (
            {"epochs": 2},
            "folds of one model must have the same epochs, iterations and focus, got two kinds of plain_901",
        ),
    ],
)
def test_folds_of_one_model_that_do_not_match_are_refused(
    tmp_path: Path, change: dict[str, object], error: str
) -> None:
    recipe = write_recipe(tmp_path / "recipe.toml", {}, {"folds": [1]} | change)
    with pytest.raises(CaseError, match=re.escape(error)):
        read_recipe(recipe)


def test_the_shipped_recipe_shows_everything_that_the_method_has() -> None:
    networks = read_recipe(SHIPPED)
    lesions = [network for network in networks if network.dataset != ORGAN_DATASET_ID]
    shown = [LESION_DATASETS[network.dataset] for network in lesions]
    assert {(data.tracer, data.encoding) for data in shown} == {(t, e) for t in Tracer for e in OrganEncoding}
    assert {network.architecture for network in lesions} == set(Architecture)
    assert any(len(network.folds) >= 2 for network in lesions)
    assert [network.folds for network in networks if network.dataset == ORGAN_DATASET_ID] == [(0,)]
    assert len({network.name for network in networks}) == len(networks)


def test_the_shipped_networks_can_be_built() -> None:
    for network in read_recipe(SHIPPED):
        assert network.narrow is not None
        assert network.epochs is not None
        stages = len(network.narrow.features)
        assert stages >= 3, "nnU-Net's loss is nan with two"
        assert len(network.narrow.blocks) == stages
        assert all(size % 2 ** (stages - 1) == 0 for size in network.narrow.patch_zyx)
        assert min(network.epochs, network.narrow.batch_size) >= 1


def test_the_papers_recipe_trains_what_its_manifest_runs() -> None:
    manifest = read_manifest(ROOT / "resources" / "paper.toml")
    for tracer in Tracer:
        networks = [n for n in read_recipe(RECIPES / "paper.toml") if LESION_DATASETS[n.dataset].tracer is tracer]
        assert [(network.architecture, network.dataset, network.folds, network.weight) for network in networks] == [
            (member.architecture, member.dataset_id, member.folds, member.weight)
            for member in manifest.tracer(tracer).members
        ]


def test_the_papers_recipe_has_250_epochs_where_the_authors_say_so() -> None:
    networks = read_recipe(RECIPES / "paper.toml")
    assert all(network.narrow is None and network.epochs is None and network.iterations is None for network in networks)
    assert {(network.dataset, network.folds): network.trainer for network in networks} == {
        (801, (0,)): TrainerName.STANDARD,
        (911, (3,)): TrainerName.STANDARD,
        (921, (2,)): TrainerName.EPOCHS_250,
        (802, (0,)): TrainerName.STANDARD,
        (802, (1,)): TrainerName.STANDARD,
        (912, (4,)): TrainerName.EPOCHS_250,
        (922, (2,)): TrainerName.EPOCHS_250,
    }


def test_the_matrix_is_every_dataset_with_every_architecture_in_five_folds() -> None:
    networks = read_recipe(RECIPES / "paper_matrix.toml")
    trainings = [(n.dataset, n.architecture, n.trainer, fold) for n in networks for fold in n.folds]
    assert len(trainings) == len(set(trainings)) == 2 * 4 * 3 * 5
    assert {dataset for dataset, *_ in trainings} == set(LESION_DATASETS)
    assert {architecture for _, architecture, *_ in trainings} == set(Architecture)
    assert {trainer for *_, trainer, _ in trainings} == {TrainerName.STANDARD}
    assert {fold for *_, fold in trainings} == set(range(5))
    assert all(network.narrow is None for network in networks)
