"""The labels of windows, beside nnU-Net's own predictor."""

from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from segmentation.totalsegmentator_windows import Model, open_model, predict_folder, predict_image, predict_labels
from segmentation.weight_files import sha256_of
from tiny_organ_net import tiny_dataset, tiny_network, tiny_plans, write_tiny_fold

WINDOW = [12, 16, 8]


def random_model() -> Model:
    """A network whose labels change from voxel to voxel, with a window of three different sizes."""
    plans = tiny_plans()
    plans["configurations"]["3d_fullres"]["patch_size"] = WINDOW
    manager = PlansManager(plans)
    torch.manual_seed(3)
    network = tiny_network()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0.0, 0.6)
    return Model(network.eval(), manager, manager.get_configuration("3d_fullres"), tiny_dataset(), torch.device("cpu"))


def nnunets_logits(model: Model, data: torch.Tensor, *, tile_step: float) -> torch.Tensor:
    predictor = nnUNetPredictor(
        tile_step_size=tile_step, use_gaussian=True, use_mirroring=False, device=model.device, allow_tqdm=False
    )
    predictor.manual_initialization(
        model.network, model.plans, model.configuration, [model.network.state_dict()], model.dataset, "trainer", None
    )
    return predictor.predict_sliding_window_return_logits(data)


@pytest.mark.parametrize(
    ("shape", "tile_step"),
    [
        ((41, 35, 30), 0.8),  # several windows along every axis
        ((41, 35, 30), 0.5),
        ((30, 9, 5), 0.8),  # thinner than the window
        ((7, 40, 21), 0.8),
        ((12, 16, 8), 0.8),  # one window
        ((13, 17, 9), 1.0),
    ],
)
def test_labels_are_nnunets(shape: tuple[int, int, int], tile_step: float) -> None:
    model = random_model()
    data = torch.randn((1, *shape), generator=torch.Generator().manual_seed(4))

    labels = predict_labels(model, data, tile_step=tile_step)

    expected = nnunets_logits(model, data, tile_step=tile_step).numpy().argmax(axis=0)
    assert labels.shape == shape
    assert labels.dtype == np.uint8
    assert len(np.unique(expected)) > 10
    np.testing.assert_array_equal(labels, expected)


def test_logits_beyond_half_precision_are_an_error_as_in_nnunet() -> None:
    model = random_model()
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.mul_(60.0)
    data = torch.full((1, 14, 18, 9), 3.0)
    with pytest.raises(RuntimeError, match="inf"):
        nnunets_logits(model, data, tile_step=0.8)
    with pytest.raises(RuntimeError, match="logits must be finite in half precision"):
        predict_labels(model, data, tile_step=0.8)


def test_empty_frame_is_cropped_and_given_back() -> None:
    model = random_model()
    data = np.zeros((1, 30, 26, 24), dtype=np.float32)
    data[0, 4:25, 3:22, 6:20] = np.random.default_rng(8).normal(40.0, 200.0, (21, 19, 14))
    properties = {"spacing": [6.0, 6.0, 6.0]}
    labels = predict_image(model, data, properties=properties, tile_step=0.8)
    assert labels.shape == (30, 26, 24)
    outside = np.ones(labels.shape, dtype=bool)
    outside[4:25, 3:22, 6:20] = False
    assert not labels[outside].any()
    assert len(np.unique(labels)) > 10


def test_image_in_another_spacing_is_refused() -> None:
    data = np.random.default_rng(8).normal(40.0, 200.0, (1, 30, 26, 24)).astype(np.float32)
    with pytest.raises(ValueError, match=r"image must be in the model's spacing \[6.0, 6.0, 6.0\] mm"):
        predict_image(random_model(), data, properties={"spacing": [3.0, 6.0, 6.0]}, tile_step=0.8)


def test_model_is_read_once(tmp_path: Path) -> None:
    fold = write_tiny_fold(tmp_path)
    torch.save(torch.load(fold / "checkpoint_final.pth", weights_only=False), fold / "checkpoint_final.pth")
    options = {"fold": 0, "device": torch.device("cpu"), "sha256": sha256_of(fold / "checkpoint_final.pth")}
    first = open_model(fold.parent, **options)
    assert open_model(fold.parent, **options) is first
    assert first.outputs == 118
    for ours, theirs in zip(first.network.parameters(), tiny_network().parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)


@pytest.mark.parametrize(("folds", "tta"), [([0, 1], False), ([0], True)])
def test_what_totalsegmentator_never_asks_for_is_refused(tmp_path: Path, folds: list[int], tta: bool) -> None:
    with pytest.raises(ValueError, match="one fold and no mirroring must be asked for"):
        predict_folder(
            tmp_path,
            tmp_path,
            298,
            "3d_fullres",
            folds,
            "trainer",
            tta,
            plans="plans",
            device="cpu",
            step_size=0.8,
            pinned={},
        )
