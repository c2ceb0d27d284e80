from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape

from nnunet_plans import GRIDS, LABELS, all_plans, changed, managers, nnunets_input, noise, recipe_of
from petct.channels import OrganEncoding, channels_of
from petct.geometry import Grid
from segmentation import resampling
from segmentation.export import add_probabilities
from segmentation.needed import Needed
from segmentation.plans import Resampling
from segmentation.preprocessing import Placement, ScanPreprocessor
from segmentation.resampling import Part

PLANS = all_plans()
PLAIN = PLANS["tiny plain"]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def thin_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several slabs in a volume that is small enough for a test."""
    monkeypatch.setitem(resampling.SLAB_VOXELS, "cpu", 5000)


def make_logits(shape: tuple[int, ...]) -> torch.Tensor:
    """Sure of themselves here, undecided there."""
    return 5.0 * torch.randn((3, *shape), generator=torch.Generator().manual_seed(4))


def both(
    plans: dict[str, Any],
    *,
    grid: Grid,
    margin: int = 0,
    dtype: torch.dtype = torch.float32,
    needed: Needed | None = None,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Probabilities by ours and by nnU-Net's export, of the same logits."""
    recipe = recipe_of(plans)
    manager, configuration = managers(plans)
    channels = noise(grid, count=len(recipe.normalisations), margin=margin)
    seen, properties = nnunets_input(channels, grid=grid, plans=plans)
    logits = make_logits(seen.shape[1:]).to(dtype)
    _, expected = convert_predicted_logits_to_segmentation_with_correct_shape(
        logits.clone(),
        manager,
        configuration,
        manager.get_label_manager(LABELS),
        properties,
        return_probabilities=True,
        num_threads_torch=1,
    )
    names = channels_of(OrganEncoding.BINARY, None)[: len(channels)]
    made = dict(zip(names, channels, strict=True))
    ready = ScanPreprocessor(grid, made.__getitem__, device=CPU).run(names, recipe=recipe, region=None)
    got = np.zeros((3, *grid.shape_zyx), dtype=np.float32)
    add_probabilities(
        got,
        logits,
        placement=ready.placement,
        part=ready.part,
        resampling=Resampling.from_plans(configuration.configuration, what="probabilities"),
        weight=1.0,
        needed=needed,
        device=CPU,
    )
    return got, np.asarray(expected)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", PLANS)
def test_probabilities_are_those_of_nnunets_export(name: str, grid: str) -> None:
    got, expected = both(PLANS[name], grid=GRIDS[grid])
    assert expected.std() > 0.1
    np.testing.assert_allclose(got, expected, rtol=0.0, atol=3e-6)
    np.testing.assert_allclose(got.sum(axis=0), 1.0, atol=1e-6)


@pytest.mark.parametrize("name", ["tiny plain", "tiny resenc_m", "demo resenc_l_921"])
def test_what_was_cropped_away_is_background(name: str) -> None:
    got, expected = both(PLANS[name], grid=GRIDS["fine"], margin=4)
    np.testing.assert_allclose(got, expected, rtol=0.0, atol=3e-6)
    # 4 voxels at each first face and 8 at each last one are empty.
    outside = np.ones((41, 30, 53), dtype=bool)
    outside[4:33, 4:22, 4:45] = False
    np.testing.assert_array_equal(got[:, outside].T, np.tile([1.0, 0.0, 0.0], (outside.sum(), 1)))


def test_logits_in_half_are_rounded_where_nnunet_rounds_them() -> None:
    got, expected = both(PLAIN, grid=GRIDS["fine"], dtype=torch.float16)
    # Only where float32 and float64 round to different halves does anything differ.
    assert (np.abs(got - expected) > 1e-6).mean() < 1e-3
    kept, _ = both(PLAIN, grid=GRIDS["fine"])
    assert (np.abs(kept - expected) > 1e-6).mean() > 0.1


@pytest.mark.parametrize(
    ("function", "options"),
    [("resample_torch_fornnunet", {"is_seg": False, "force_separate_z": None}), ("no_resampling_hack", {})],
)
def test_other_resamplings_are_nnunets(function: str, options: dict[str, Any]) -> None:
    names = {f"resampling_fn_{what}": function for what in ("data", "probabilities")}
    kwargs = {f"resampling_fn_{what}_kwargs": options for what in ("data", "probabilities")}
    got, expected = both(changed(PLAIN, **names, **kwargs), grid=GRIDS["fine"])
    np.testing.assert_allclose(got, expected, rtol=0.0, atol=1e-6)


def test_a_sum_is_added_to_and_weighted() -> None:
    # The network's axes are y, z, x; the first and last row of y are cropped away.
    placement = Placement(
        transpose=(1, 0, 2),
        shape=(6, 5, 7),
        box=((1, 5), (0, 5), (0, 7)),
        spacing_mm=(2.0, 3.0, 4.0),
        network_spacing_mm=(2.0, 3.0, 4.0),
    )
    logits = make_logits((4, 5, 7))
    total = np.full((3, 5, 6, 7), 0.5, dtype=np.float32)
    linear = Resampling("resample_data_or_seg_to_shape", (("order", 1),))
    add_probabilities(
        total,
        logits,
        placement=placement,
        part=Part((4, 5, 7), (0, 0, 0)),
        resampling=linear,
        weight=0.25,
        needed=None,
        device=CPU,
    )
    expected = np.full((3, 5, 6, 7), 0.5)
    expected[0, :, [0, 5]] += 0.25
    exponentials = np.exp(logits.double().numpy())
    expected[:, :, 1:5] += 0.25 * (exponentials / exponentials.sum(axis=0)).transpose(0, 2, 1, 3)
    np.testing.assert_allclose(total, expected, rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("margin", [0, 4])
@pytest.mark.parametrize("name", ["tiny plain", "tiny resenc_m", "demo resenc_l_921"])
def test_where_they_matter_they_are_the_same(name: str, margin: int) -> None:
    grid = GRIDS["fine"]
    spots = np.zeros(grid.shape_zyx, dtype=bool)
    spots[9, 20, 5] = spots[30, 3, 36] = True
    got, expected = both(PLANS[name], grid=grid, margin=margin, needed=Needed.around(spots, reach=(2, 1, 3)))
    for z, y, x in ((9, 20, 5), (30, 3, 36)):
        near = (slice(None), slice(z - 2, z + 3), slice(y - 1, y + 2), slice(x - 3, x + 4))
        np.testing.assert_allclose(got[near], expected[near], rtol=0.0, atol=3e-6)
    inside = got[:, margin : 41 - 2 * margin, margin : 30 - 2 * margin, margin : 53 - 2 * margin]
    assert (inside.sum(axis=0) == 0.0).mean() > 0.5  # nothing was computed there
