from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from nnunet_plans import GRIDS, all_plans, changed, managers, nnunets_input, noise, recipe_of
from petct.channels import Channel, ClipHU, OrganEncoding, channel_names, channels_of
from petct.errors import CaseError
from petct.geometry import Grid
from segmentation import preprocessing
from segmentation.plans import Recipe, read_recipe
from segmentation.preprocessing import Preprocessed, ScanPreprocessor
from segmentation.resampling import Box

PLANS = all_plans()
PLAIN, RESENC_M = PLANS["tiny plain"], PLANS["tiny resenc_m"]
CPU = torch.device("cpu")
FINE = GRIDS["fine"]
Float = npt.NDArray[np.float32]


def preprocess(channels: Float, *, grid: Grid, recipe: Recipe, region: Box | None = None) -> Preprocessed:
    """Ready-made channels preprocessed."""
    seen = channels_of(OrganEncoding.BINARY, None)[: len(channels)]
    made = dict(zip(seen, channels, strict=True))
    choose = (lambda _placement: region) if region is not None else None
    return ScanPreprocessor(grid, made.__getitem__, device=CPU).run(seen, recipe=recipe, region=choose)


def check(plans: dict[str, Any], *, grid: str, margin: int = 0) -> None:
    """Ours must be nnU-Net's, and leave the channels as they are."""
    recipe = recipe_of(plans)
    channels = noise(GRIDS[grid], count=len(recipe.normalisations), margin=margin)
    before = channels.copy()
    expected, properties = nnunets_input(channels, grid=GRIDS[grid], plans=plans)
    got = preprocess(channels, grid=GRIDS[grid], recipe=recipe)
    assert got.data.dtype == torch.float32
    assert got.data.shape == expected.shape
    for ours, nnunets in zip(got.data.numpy(), expected, strict=True):
        np.testing.assert_allclose(ours, nnunets, rtol=0.0, atol=1e-6 * np.abs(nnunets).max())
    assert got.placement.shape == properties["shape_before_cropping"]
    assert got.placement.box == tuple(map(tuple, properties["bbox_used_for_cropping"]))
    assert got.placement.box_shape == properties["shape_after_cropping_and_before_resampling"]
    np.testing.assert_array_equal(channels, before)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", PLANS)
def test_a_network_sees_what_nnunet_would_show_it(name: str, grid: str) -> None:
    check(PLANS[name], grid=grid)


@pytest.mark.parametrize("name", ["tiny plain", "tiny resenc_m", "demo resenc_l_921"])
def test_the_scan_is_cropped_as_by_nnunet(name: str) -> None:
    check(PLANS[name], grid="fine", margin=4)


@pytest.mark.parametrize("is_masked", [True, False])
@pytest.mark.parametrize("scheme", ["ZScoreNormalization", "RescaleTo01Normalization", "CTNormalization"])
def test_other_normalisations_are_nnunets(scheme: str, is_masked: bool) -> None:
    plans = changed(PLAIN, normalization_schemes=[scheme] * 2, use_mask_for_norm=[is_masked] * 2)
    check(plans, grid="fine", margin=4)


@pytest.mark.parametrize(
    ("function", "options"),
    [("resample_torch_fornnunet", {"is_seg": False, "force_separate_z": None}), ("no_resampling_hack", {})],
)
def test_other_resamplings_are_nnunets(function: str, options: dict[str, Any]) -> None:
    check(changed(PLAIN, resampling_fn_data=function, resampling_fn_data_kwargs=options), grid="fine")


def test_an_empty_scan_is_not_cropped() -> None:
    channels = np.zeros((2, *FINE.shape_zyx), dtype=np.float32)
    got = preprocess(channels, grid=FINE, recipe=recipe_of(PLAIN))
    assert got.placement.box_shape == tuple(FINE.shape_zyx[axis] for axis in (1, 0, 2))
    np.testing.assert_allclose(got.data.numpy(), nnunets_input(channels, grid=FINE, plans=PLAIN)[0], atol=1e-6)


class Counted:
    """A scan's preprocessor, and how many channels it resampled since it was last asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._calls = 0
        resample = preprocessing.resample

        def counted(*arguments: Any, **options: Any) -> None:
            self._calls += 1
            resample(*arguments, **options)

        monkeypatch.setattr(preprocessing, "resample", counted)
        self._preprocessor = ScanPreprocessor(FINE, self._build, device=CPU)

    @staticmethod
    def _build(channel: Channel) -> Float:
        number = channel_names(OrganEncoding.BINARY).index(channel.name)
        voxels = noise(FINE, count=10)[number]
        if channel.clip is not None:
            voxels = voxels.clip(channel.clip.low_hu, channel.clip.high_hu)
        return voxels * 0.7 if channel.encoding is OrganEncoding.SOFT_DISTANCE else voxels

    def resampled(
        self, recipe: Recipe, *, clip: ClipHU | None = None, is_soft: bool = False, region: Box | None = None
    ) -> int:
        encoding = OrganEncoding.SOFT_DISTANCE if is_soft else OrganEncoding.BINARY
        channels = channels_of(encoding, clip)[: len(recipe.normalisations)]
        choose = (lambda _placement: region) if region is not None else None
        self._calls = 0
        got = self._preprocessor.run(channels, recipe=recipe, region=choose)
        calls = self._calls
        fresh = ScanPreprocessor(FINE, self._build, device=CPU)
        assert torch.equal(got.data, fresh.run(channels, recipe=recipe, region=choose).data)
        return calls


def test_pet_and_ct_are_made_once_whatever_the_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(monkeypatch)
    ten = recipe_of(RESENC_M)
    two = replace(ten, normalisations=ten.normalisations[:2])
    assert counted.resampled(two) == 2
    assert counted.resampled(ten) == 8
    assert counted.resampled(ten, is_soft=True) == 8
    assert counted.resampled(two) == 0


def test_what_differs_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(monkeypatch)
    recipe = recipe_of(PLAIN)
    pet, ct = recipe.normalisations
    other_hu = replace(ct, intensities=tuple((name, value + 3.0) for name, value in ct.intensities))
    assert counted.resampled(recipe) == 2
    assert counted.resampled(recipe, clip=ClipHU(-50.0, 50.0)) == 1
    assert counted.resampled(replace(recipe, normalisations=(pet, other_hu))) == 1
    assert counted.resampled(recipe, region=(slice(2, 9), slice(1, 8), slice(3, 11))) == 2
    assert counted.resampled(replace(recipe, transpose=(0, 1, 2))) == 2
    assert counted.resampled(replace(recipe, spacing_mm=(3.4, 4.0, 3.0))) == 2
    linear = replace(recipe.resampling, options=(("order", 1),))
    assert counted.resampled(replace(recipe, resampling=linear)) == 2
    masked = replace(recipe, normalisations=(replace(pet, is_masked=True), ct))
    assert counted.resampled(masked) == 1
    assert counted.resampled(masked) == 1  # a mask is made of all channels, so nothing says that it is the same


def test_plans_with_equal_preprocessing_have_equal_recipes() -> None:
    assert recipe_of(PLAIN) == recipe_of(changed(PLAIN, patch_size=[8, 8, 16], batch_size=7))
    assert hash(recipe_of(PLAIN)) == hash(recipe_of(changed(PLAIN, patch_size=[8, 8, 16])))
    assert recipe_of(PLAIN) != recipe_of(changed(PLAIN, spacing=[3.4, 4.0, 3.0]))


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"preprocessor_name": "OtherPreprocessor"}, "plans must name the DefaultPreprocessor, got OtherPreprocessor"),
        ({"spacing": [3.4, 4.0]}, "configuration must have three axes, got 2"),
    ],
)
def test_plans_for_another_preprocessing_are_refused(changes: dict[str, Any], rule: str) -> None:
    with pytest.raises(CaseError, match=f"^member x: {rule}"):
        read_recipe(*managers(changed(PLAIN, **changes)), channels=2, where="member x")


def test_an_unknown_normalisation_is_refused() -> None:
    recipe = recipe_of(changed(PLAIN, normalization_schemes=["NoNormalization", "Unheard"]))
    with pytest.raises(ValueError, match="nnU-Net must have the normalisation that plans name, got Unheard"):
        preprocess(noise(FINE, count=2), grid=FINE, recipe=recipe)


@pytest.mark.parametrize("name", PLANS)
def test_a_region_is_what_it_is_in_the_whole(name: str) -> None:
    recipe = recipe_of(PLANS[name])
    channels = noise(FINE, count=len(recipe.normalisations))
    whole = preprocess(channels, grid=FINE, recipe=recipe)
    region = (slice(2, 9), slice(1, 8), slice(3, 11))
    got = preprocess(channels, grid=FINE, recipe=recipe, region=region)
    assert got.part.low == (2, 1, 3)
    assert got.part.whole == whole.part.whole == tuple(whole.data.shape[1:])
    expected = whole.data[(slice(None), *region)]
    np.testing.assert_allclose(got.data, expected, rtol=0.0, atol=1e-6 * float(expected.abs().max()))


def test_a_channel_off_the_grid_is_refused() -> None:
    with pytest.raises(ValueError, match=r"channel ct must be on the grid \(41, 30, 53\) \(z, y, x\), got \(40"):
        preprocess(noise(FINE, count=2)[:, :-1], grid=FINE, recipe=recipe_of(PLAIN))
