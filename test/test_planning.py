import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from petct.manifest import Architecture
from segmentation.packed_model import build_network
from tiny_nnunet import make_results
from training.datasets.planning import CONFIGURATION, NNUNET_PLANS, NarrowNetwork, narrow_plans, set_nnunet_folders

NARROW = NarrowNetwork(features=(6, 10, 14, 18), blocks=(1, 2, 3, 2), patch_zyx=(24, 16, 40), batch_size=3)
# The patch in the order of each plan's axes: (y, z, x) for transposition (1, 0, 2), (x, z, y) for (2, 0, 1).
PATCHES = {
    Architecture.PLAIN: [16, 24, 40],
    Architecture.RESENC_M: [40, 24, 16],
    Architecture.RESENC_L: [16, 24, 40],
}


@pytest.fixture(params=list(Architecture))
def architecture(request: pytest.FixtureRequest) -> Architecture:
    return Architecture(request.param)


@pytest.fixture
def preprocessed(architecture: Architecture, tmp_path: Path) -> Path:
    """A preprocessed data set's folder as far as plans go, with another configuration in them."""
    results = make_results(tmp_path, architecture=architecture, dataset_id=801, folds=())
    plans = json.loads((results / "plans.json").read_text(encoding="utf-8"))
    plans["configurations"]["2d"] = {}
    (results / f"{NNUNET_PLANS[architecture]}.json").write_text(json.dumps(plans), encoding="utf-8")
    return results


def read(preprocessed: Path, plans: str) -> PlansManager:
    return PlansManager(str(preprocessed / f"{plans}.json"))


def test_patch_and_batch_are_the_recipes_and_the_rest_is_nnunets(
    architecture: Architecture, preprocessed: Path
) -> None:
    original = (preprocessed / f"{NNUNET_PLANS[architecture]}.json").read_bytes()
    name = narrow_plans(preprocessed, architecture=architecture, network=NARROW)
    assert name == f"{NNUNET_PLANS[architecture]}Narrow"
    narrow = read(preprocessed, name)
    assert narrow.plans_name == name
    assert narrow.available_configurations == [CONFIGURATION]
    wide = read(preprocessed, NNUNET_PLANS[architecture])
    assert narrow.transpose_forward == wide.transpose_forward != [0, 1, 2]
    mine, theirs = narrow.get_configuration(CONFIGURATION), wide.get_configuration(CONFIGURATION)
    assert mine.patch_size == PATCHES[architecture]
    assert mine.batch_size == 3
    for key in ("spacing", "normalization_schemes", "data_identifier", "preprocessor_name"):
        assert mine.configuration[key] == theirs.configuration[key]
    assert (preprocessed / f"{NNUNET_PLANS[architecture]}.json").read_bytes() == original


def test_the_network_is_narrow_and_of_the_same_class(architecture: Architecture, preprocessed: Path) -> None:
    name = narrow_plans(preprocessed, architecture=architecture, network=NARROW)
    mine = read(preprocessed, name).get_configuration(CONFIGURATION)
    theirs = read(preprocessed, NNUNET_PLANS[architecture]).get_configuration(CONFIGURATION)
    dataset = json.loads((preprocessed / "dataset.json").read_text(encoding="utf-8"))
    network = build_network(mine, dataset)
    assert type(network) is type(build_network(theirs, dataset))
    assert len(network.encoder.stages) == 4
    assert network.encoder.output_channels == [6, 10, 14, 18]
    for stage, blocks in zip(network.encoder.stages, (1, 2, 3, 2), strict=True):
        # The plain network's stage wraps its convolutions once more.
        convolutions = stage[-1].convs if architecture is Architecture.PLAIN else stage.blocks
        assert len(convolutions) == blocks
    with torch.no_grad():
        logits = network(torch.zeros(1, 2, *mine.patch_size))
    assert logits.shape == (1, 3, *PATCHES[architecture])


def test_narrow_plans_appear_whole_or_not_at_all(
    architecture: Architecture, preprocessed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = narrow_plans(preprocessed, architecture=architecture, network=NARROW)
    before = (preprocessed / f"{name}.json").read_bytes()
    held = sorted(path.name for path in preprocessed.iterdir())
    assert not [path for path in held if path.startswith(".partial.")]

    def die(source: Path, target: Path) -> None:
        assert json.loads(Path(source).read_text(encoding="utf-8"))["plans_name"] == name  # whole before it is moved
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        narrow_plans(preprocessed, architecture=architecture, network=replace(NARROW, batch_size=9))
    assert (preprocessed / f"{name}.json").read_bytes() == before
    assert sorted(path.name for path in preprocessed.iterdir()) == held


def test_nnunets_folders_are_made_and_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
    for name in names:
        monkeypatch.setenv(name, "elsewhere")
    set_nnunet_folders(tmp_path / "nnunet")
    assert [os.environ[name] for name in names] == [str(tmp_path / "nnunet" / name) for name in names]
    assert all((tmp_path / "nnunet" / name).is_dir() for name in names)
