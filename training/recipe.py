"""A recipe: which networks to train, how, and the manifest that they end up in."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from petct.errors import CaseError
from petct.manifest import Architecture
from petct.typed_table import TypedTable
from training.datasets import ORGAN_DATASET_ID, dataset_name
from training.planning import NarrowNetwork


@dataclass(frozen=True)
class NetworkRecipe:
    """One network of the recipe.

    Attributes:
        dataset: Data set number.
        architecture: Network family, which names the plans.
        folds: Folds to train.
        epochs: Epochs of 50 iterations.
        weight: Its weight in the ensemble.
        focus: A label that a quarter of the patches are centred on, because it is small and hard; "" for none.
        narrow: What replaces nnU-Net's own choices.
    """

    dataset: int
    architecture: Architecture
    folds: tuple[int, ...]
    epochs: int
    weight: float
    focus: str
    narrow: NarrowNetwork

    @property
    def name(self) -> str:
        """What the member is called in manifest and logs."""
        return f"{self.architecture.value}_{self.dataset}"


def read_recipe(path: Path) -> tuple[NetworkRecipe, ...]:
    """Read a recipe file.

    Raises:
        CaseError: The file is missing, not TOML, or a key is missing, unknown or wrong; a network cannot be built, or
            is there twice.
    """
    if not path.is_file():
        raise CaseError(path.name, "recipe file is missing", str(path))
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CaseError(path.name, "recipe must be TOML in UTF-8", str(error)) from error
    top = TypedTable(content, where=path.name)
    networks = tuple(_network(table, where=path.name) for table in top.tables("networks"))
    top.finish()
    names = [network.name for network in networks]
    for network in networks:
        _check(network, where=f"{path.name} {network.name}")
        # They would share nnU-Net's plans and results.
        if names.count(network.name) > 1:
            raise CaseError(path.name, "must have each data set and architecture once", network.name)
    return networks


def _check(network: NetworkRecipe, *, where: str) -> None:
    dataset_name(network.dataset)  # refuses one that does not exist
    narrow = network.narrow
    stages = len(narrow.features)
    if stages < 3:
        # nnU-Net leaves the lowest output out of its loss, which with two stages is the only one beside the first.
        raise CaseError(where, "features must have three stages or more, or nnU-Net's loss is nan", str(stages))
    if len(narrow.blocks) != stages:
        raise CaseError(where, f"blocks must have a number for each of {stages} stages", str(len(narrow.blocks)))
    if min(network.epochs, narrow.batch_size, *narrow.features, *narrow.blocks, *narrow.patch_zyx) < 1:
        raise CaseError(where, "epochs, batch_size, features, blocks and patch_zyx must be >= 1", "0")
    step = 2 ** (stages - 1)
    if any(size % step for size in narrow.patch_zyx):
        raise CaseError(where, f"patch_zyx must be divisible by {step}", str(narrow.patch_zyx))
    if network.dataset == ORGAN_DATASET_ID and len(network.folds) != 1:
        raise CaseError(where, "organ network must have one fold, all that TotalSegmentator reads", str(network.folds))


def _network(table: TypedTable, *, where: str) -> NetworkRecipe:
    patch = table.wholes("patch_zyx", distinct=False)
    if len(patch) != 3:
        raise CaseError(where, "patch_zyx must have three numbers", str(patch))
    network = NetworkRecipe(
        dataset=table.whole("dataset"),
        architecture=table.choice("architecture", Architecture),
        folds=table.wholes("folds"),
        epochs=table.whole("epochs"),
        weight=table.number("weight", above=0.0),
        focus=table.text("focus") if table.has("focus") else "",
        narrow=NarrowNetwork(
            features=table.wholes("features", distinct=False),
            blocks=table.wholes("blocks", distinct=False),
            patch_zyx=(patch[0], patch[1], patch[2]),
            batch_size=table.whole("batch_size"),
        ),
    )
    table.finish()
    return network
