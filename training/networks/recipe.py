"""A recipe: which networks to train, with which trainer, and their weights in the ensemble that they end up in."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import product
from pathlib import Path

from petct.errors import CaseError
from petct.manifest import Architecture
from petct.typed_table import TypedTable
from training.datasets.descriptions import ORGAN_DATASET_ID, dataset_name
from training.datasets.planning import NarrowNetwork


class TrainerName(StrEnum):
    """The trainers, by the names of their classes: nnU-Net's own two, and the demo ensemble's."""

    STANDARD = "nnUNetTrainer"
    EPOCHS_250 = "nnUNetTrainer_250epochs"
    SHORT = "ShortTrainer"


@dataclass(frozen=True)
class NetworkRecipe:
    """One network of the recipe: a data set, an architecture, a trainer, and the folds to train.

    Attributes:
        name: What the member is called in manifest and logs.
        dataset: Data set number.
        architecture: Network family, which names the plans.
        trainer: nnU-Net's trainer class.
        folds: Folds to train.
        weight: Its weight in the ensemble.
        epochs: Epochs; None for the trainer's own number.
        iterations: Iterations of an epoch; None for the trainer's own number.
        focus: A label that a quarter of the patches are centred on, because it is small and hard; "" for none.
        narrow: What replaces nnU-Net's own choices; None for nnU-Net's plans as they are.
    """

    name: str
    dataset: int
    architecture: Architecture
    trainer: TrainerName
    folds: tuple[int, ...]
    weight: float
    epochs: int | None
    iterations: int | None
    focus: str
    narrow: NarrowNetwork | None

    @property
    def model(self) -> str:
        """What the trained model is called; members that share it differ in their folds."""
        epochs = "_250epochs" if self.trainer is TrainerName.EPOCHS_250 else ""
        return f"{self.architecture.value}_{self.dataset}{epochs}"


def read_recipe(path: Path) -> tuple[NetworkRecipe, ...]:
    """Read a recipe file.

    Every `[[networks]]` block is a matrix: each of its data sets with each of its architectures.

    Raises:
        CaseError: The file is missing, not TOML, or a key is missing, unknown or wrong; a network cannot be built, or a
            fold of it is there twice.
    """
    if not path.is_file():
        raise CaseError(path.name, "recipe file is missing", str(path))
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CaseError(path.name, "recipe must be TOML in UTF-8", str(error)) from error
    top = TypedTable(content, where=path.name)
    networks = [network for table in top.tables("networks") for network in _networks(table, where=path.name)]
    top.finish()
    for network in networks:
        _check(network, where=f"{path.name} {network.name}")
    _check_together(networks, where=path.name)
    return tuple(_with_distinct_name(network, networks) for network in networks)


def _networks(table: TypedTable, *, where: str) -> list[NetworkRecipe]:
    """The networks of one block."""
    datasets = table.wholes("datasets")
    architectures = table.choices("architectures", Architecture)
    block = NetworkRecipe(
        name="",
        dataset=datasets[0],
        architecture=architectures[0],
        trainer=table.choice("trainer", TrainerName),
        folds=table.wholes("folds"),
        weight=table.number("weight", above=0.0),
        epochs=table.whole("epochs") if table.has("epochs") else None,
        iterations=table.whole("iterations") if table.has("iterations") else None,
        focus=table.text("focus") if table.has("focus") else "",
        narrow=_narrow(table.table("narrow"), where=where) if table.has("narrow") else None,
    )
    table.finish()
    networks = [replace(block, dataset=d, architecture=a) for d, a in product(datasets, architectures)]
    return [replace(network, name=network.model) for network in networks]


def _narrow(table: TypedTable, *, where: str) -> NarrowNetwork:
    patch = table.wholes("patch_zyx", distinct=False)
    if len(patch) != 3:
        raise CaseError(where, "patch_zyx must have three numbers", str(patch))
    narrow = NarrowNetwork(
        features=table.wholes("features", distinct=False),
        blocks=table.wholes("blocks", distinct=False),
        patch_zyx=(patch[0], patch[1], patch[2]),
        batch_size=table.whole("batch_size"),
    )
    table.finish()
    return narrow


def _check(network: NetworkRecipe, *, where: str) -> None:
    dataset_name(network.dataset)  # refuses one that does not exist
    for key, value in (("epochs", network.epochs), ("iterations", network.iterations)):
        if value is not None and value < 1:
            raise CaseError(where, f"{key} must be >= 1", str(value))
    if network.dataset == ORGAN_DATASET_ID and len(network.folds) != 1:
        raise CaseError(where, "organ network must have one fold, all that TotalSegmentator reads", str(network.folds))
    if network.focus and network.trainer is not TrainerName.SHORT:
        raise CaseError(where, f"focus must come with trainer {TrainerName.SHORT}", network.trainer)
    if network.narrow is not None:
        _check_narrow(network.narrow, where=where)


def _check_narrow(narrow: NarrowNetwork, *, where: str) -> None:
    stages = len(narrow.features)
    if stages < 3:
        # nnU-Net leaves the lowest output out of its loss, which with two stages is the only one beside the first.
        raise CaseError(where, "features must have three stages or more, or nnU-Net's loss is nan", str(stages))
    if len(narrow.blocks) != stages:
        raise CaseError(where, f"blocks must have a number for each of {stages} stages", str(len(narrow.blocks)))
    if min(narrow.batch_size, *narrow.features, *narrow.blocks, *narrow.patch_zyx) < 1:
        raise CaseError(where, "batch_size, features, blocks and patch_zyx must be >= 1", "0")
    step = 2 ** (stages - 1)
    if any(size % step for size in narrow.patch_zyx):
        raise CaseError(where, f"patch_zyx must be divisible by {step}", str(narrow.patch_zyx))


def _check_together(networks: list[NetworkRecipe], *, where: str) -> None:
    seen: dict[tuple[str, int], NetworkRecipe] = {}
    for network in networks:
        for fold in network.folds:
            if (network.model, fold) in seen:
                rule = "must have each fold of a data set, architecture and trainer once"
                raise CaseError(where, rule, network.model)
            seen[network.model, fold] = network
    for network in networks:
        for other in networks:
            # They share nnU-Net's plans, or its results.
            if (network.dataset, network.architecture) == (other.dataset, other.architecture) and (
                network.narrow != other.narrow
            ):
                rule = "networks of one data set and architecture must be equally narrow"
                raise CaseError(where, rule, f"two kinds of {network.architecture.value}_{network.dataset}")
            if network.model == other.model and (network.epochs, network.iterations, network.focus) != (
                other.epochs, other.iterations, other.focus,
            ):  # fmt: skip
                rule = "folds of one model must have the same epochs, iterations and focus"
                raise CaseError(where, rule, f"two kinds of {network.model}")


def _with_distinct_name(network: NetworkRecipe, networks: list[NetworkRecipe]) -> NetworkRecipe:
    """Members that share a model, because their folds have different weights, are told apart by their folds."""
    if sum(other.model == network.model for other in networks) == 1:
        return network
    return replace(network, name=f"{network.model}_fold_{'_'.join(map(str, network.folds))}")
