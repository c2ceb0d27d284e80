import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.preprocessing.resampling.default_resampling import (
    compute_new_shape,
    determine_do_sep_z_and_axis,
    resample_data_or_seg_to_shape,
)
from nnunetv2.preprocessing.resampling.resample_torch import resample_torch_fornnunet

from segmentation import resampling
from segmentation.plans import Resampling, Spline, resampled_shape
from segmentation.resampling import Box, Part, resample, resample_slabs

CPU = torch.device("cpu")
ISOTROPIC_MM = (2.0, 2.1, 2.3)
# Largest spacing over smallest above 3, along each axis: nnU-Net then resamples that axis by itself.
THICK_MM = [(9.0, 2.1, 2.3), (2.0, 9.0, 2.3), (2.0, 2.1, 9.0)]
# Relative to the largest voxel; half keeps 11 bits.
TOLERANCE = {np.float64: 1e-12, np.float32: 1e-6, np.float16: 2.0**-10}


def named(function: str = "resample_data_or_seg_to_shape", **options: Any) -> Resampling:
    return Resampling.from_plans({"resampling_fn_data": function, "resampling_fn_data_kwargs": options}, what="data")


def volume(shape: tuple[int, ...], dtype: type = np.float32, *, seed: int = 3) -> npt.NDArray[Any]:
    """Noise, on which a spline overshoots everywhere."""
    return (100.0 * np.random.default_rng(seed).normal(size=shape)).astype(dtype)


def whole(shape: Sequence[int]) -> Box:
    first, second, third = (slice(0, size) for size in shape)
    return first, second, third


def ours(
    data: npt.NDArray[Any],
    shape: tuple[int, ...],
    *,
    options: Resampling,
    spacing_mm: tuple[float, ...] = ISOTROPIC_MM,
    new_spacing_mm: tuple[float, ...] = ISOTROPIC_MM,
) -> npt.NDArray[Any]:
    before = data.copy()
    out = torch.full((len(data), *shape), float("nan"), dtype=torch.from_numpy(data).dtype)
    resample(
        torch.from_numpy(data),
        out=out,
        region=whole(shape),
        shape=shape,
        resampling=options,
        spacing_mm=spacing_mm,
        new_spacing_mm=new_spacing_mm,
        device=CPU,
    )
    np.testing.assert_array_equal(data, before)
    return out.numpy()


def check(
    data: npt.NDArray[Any],
    shape: tuple[int, ...],
    *,
    spacing_mm: tuple[float, ...] = ISOTROPIC_MM,
    new_spacing_mm: tuple[float, ...] = ISOTROPIC_MM,
    **options: Any,
) -> npt.NDArray[Any]:
    """Ours, which must be nnU-Net's."""
    expected = resample_data_or_seg_to_shape(data, shape, spacing_mm, new_spacing_mm, **options)
    got = ours(data, shape, options=named(**options), spacing_mm=spacing_mm, new_spacing_mm=new_spacing_mm)
    assert got.dtype == expected.dtype
    difference = np.abs(got.astype(np.float64) - expected.astype(np.float64)).max()
    assert difference <= TOLERANCE[data.dtype.type] * np.abs(data).max()
    return got


@pytest.fixture
def thin_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several slabs and several bands in volumes that are small enough for a test."""
    monkeypatch.setitem(resampling.SLAB_VOXELS, "cpu", 5000)
    monkeypatch.setitem(resampling.BAND_ROWS, "cpu", 7)


sizes = st.tuples(*[st.integers(1, 14)] * 3)
spacings = st.sampled_from([ISOTROPIC_MM, *THICK_MM])


@settings(max_examples=150, deadline=None)
@given(
    channels=st.integers(1, 10),
    shape=sizes,
    new_shape=sizes,
    dtype=st.sampled_from([np.float64, np.float32]),
    order=st.integers(0, 5),
    order_z=st.sampled_from([0, 1, 3]),
    force_separate_z=st.sampled_from([None, True, False]),
    spacing_mm=spacings,
    new_spacing_mm=spacings,
)
def test_any_volume_is_resampled_as_by_nnunet(
    channels: int,
    shape: tuple[int, int, int],
    new_shape: tuple[int, int, int],
    dtype: type,
    **arguments: Any,
) -> None:
    check(volume((channels, *shape), dtype), new_shape, **arguments)


sizes_mm = st.one_of(st.floats(0.02, 100.0), st.sampled_from([2.0, np.nextafter(2.0, 3.0), 6.0, 6.5]))
any_spacing = st.tuples(sizes_mm, sizes_mm, sizes_mm)


@settings(max_examples=500)
@given(force=st.sampled_from([None, True, False]), threshold=st.floats(1.0, 5.0), spacing=any_spacing, new=any_spacing)
def test_the_axis_that_is_resampled_by_itself_is_nnunets(
    force: bool | None, threshold: float, spacing: tuple[float, ...], new: tuple[float, ...]
) -> None:
    is_apart, axis = determine_do_sep_z_and_axis(force, spacing, new, threshold)
    spline = Spline(force_separate_z=force, separate_z_anisotropy_threshold=threshold)
    assert spline.separate_axis(spacing, new) == (axis if is_apart else None)


@settings(max_examples=500)
@given(shape=st.tuples(*[st.integers(1, 2000)] * 3), spacing=any_spacing, new=any_spacing)
def test_the_number_of_voxels_is_nnunets(
    shape: tuple[int, ...], spacing: tuple[float, ...], new: tuple[float, ...]
) -> None:
    expected = tuple(compute_new_shape(shape, spacing, new).tolist())
    assert resampled_shape(shape, spacing_mm=spacing, new_spacing_mm=new) == expected


@pytest.mark.usefixtures("thin_slabs")
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("new_shape", [(99, 41, 63), (50, 30, 31), (83, 37, 71), (140, 37, 20), (83, 60, 57)])
def test_slabs_fit_together(new_shape: tuple[int, int, int], order: int, dtype: type) -> None:
    # Long enough for weights far from the diagonal to be left out, 25 voxels away in float64.
    data = volume((2, 83, 37, 57), dtype)
    check(data, new_shape, order=order)


@pytest.mark.usefixtures("thin_slabs")
@pytest.mark.parametrize("spacing_mm", THICK_MM)
@pytest.mark.parametrize("order_z", [0, 1, 3])
def test_thick_slices_are_resampled_apart(spacing_mm: tuple[float, ...], order_z: int) -> None:
    data = volume((3, 33, 27, 38))
    apart = check(data, (45, 19, 52), spacing_mm=spacing_mm, order=3, order_z=order_z, force_separate_z=None)
    together = check(data, (45, 19, 52), spacing_mm=spacing_mm, order=3, order_z=order_z, force_separate_z=False)
    assert np.abs(apart - together).max() > 1.0  # of voxels around 100


def test_a_slice_that_stays_is_clipped_like_the_others() -> None:
    # Only the thick axis changes, so that nothing in the slices is resampled.
    check(volume((2, 7, 12, 9)), (11, 12, 9), spacing_mm=THICK_MM[0], force_separate_z=None, order_z=1)


def test_a_spline_is_clipped_to_the_range_of_its_own_channel() -> None:
    mask = np.zeros((2, 20, 13, 17), dtype=np.float32)
    mask[0, 5:12, 3:9, 6:13] = 1.0
    mask[1] = 10.0 * mask[0] - 3.0
    got = check(mask, (31, 18, 21), order=3)
    assert (got[0].min(), got[0].max()) == (0.0, 1.0)
    assert (got[1].min(), got[1].max()) == (-3.0, 7.0)


def test_a_volume_of_the_right_shape_is_left_alone() -> None:
    data = volume((3, 11, 12, 13))
    np.testing.assert_array_equal(check(data, (11, 12, 13), order=3), data)


@pytest.mark.usefixtures("thin_slabs")
def test_slabs_are_small_and_cover_every_row_once() -> None:
    data = torch.from_numpy(volume((2, 40, 21, 33)))
    slabs: Iterator[tuple[Box, torch.Tensor]] = resample_slabs(
        data,
        resampling=named(order=1),
        shape=(50, 30, 27),
        spacing_mm=ISOTROPIC_MM,
        new_spacing_mm=ISOTROPIC_MM,
        device=CPU,
    )
    rows = []
    for where, slab in slabs:
        assert slab.shape == (2, where[0].stop - where[0].start, 30, 27)
        assert where[1:] == (slice(0, 30), slice(0, 27))
        assert slab[0].numel() <= 5000
        rows += range(50)[where[0]]
    assert rows == list(range(50))


def test_another_function_is_left_to_nnunet_and_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    data = volume((2, 11, 14, 9))
    options = {"is_seg": False, "force_separate_z": False, "memefficient_seg_resampling": False}
    expected = resample_torch_fornnunet(data, (15, 10, 12), ISOTROPIC_MM, ISOTROPIC_MM, **options)
    resampling._report_foreign.cache_clear()
    for _ in range(2):
        got = ours(data, (15, 10, 12), options=named("resample_torch_fornnunet", **options))
        np.testing.assert_array_equal(got, expected)
    assert caplog.record_tuples == [
        (
            "segmentation.resampling",
            logging.WARNING,
            "plans name the resampling resample_torch_fornnunet, which is left to nnU-Net and takes longer",
        )
    ]


def test_label_maps_are_left_to_nnunet() -> None:
    labels = np.random.default_rng(1).integers(0, 3, size=(1, 9, 12, 7)).astype(np.float32)
    expected = resample_data_or_seg_to_shape(labels, (12, 10, 9), ISOTROPIC_MM, ISOTROPIC_MM, is_seg=True, order=1)
    got = ours(labels, (12, 10, 9), options=named(is_seg=True, order=1))
    np.testing.assert_array_equal(got, expected)


def test_options_that_nnunet_does_not_have_are_refused() -> None:
    with pytest.raises(TypeError, match="sharpness"):
        ours(volume((1, 4, 5, 6)), (5, 6, 7), options=named(order=3, sharpness=2))


@pytest.mark.usefixtures("thin_slabs")
@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("spacing_mm", [ISOTROPIC_MM, *THICK_MM])
@pytest.mark.parametrize("new_shape", [(50, 31, 30), (29, 18, 26), (21, 40, 26)])
def test_a_region_is_what_it_is_in_the_whole(
    new_shape: tuple[int, int, int], spacing_mm: tuple[float, ...], order: int
) -> None:
    data = torch.from_numpy(volume((2, 40, 21, 33)))
    arguments = {
        "resampling": named(order=order, force_separate_z=None),
        "shape": new_shape,
        "spacing_mm": spacing_mm,
        "new_spacing_mm": ISOTROPIC_MM,
        "device": CPU,
    }
    expected = torch.empty(2, *new_shape)
    resample(data, out=expected, region=whole(new_shape), **arguments)
    region = (slice(6, 19), slice(0, 11), slice(9, new_shape[2]))
    got = torch.full((2, 13, 11, new_shape[2] - 9), float("nan"))
    resample(data, out=got, region=region, **arguments)
    np.testing.assert_allclose(got, expected[(slice(None), *region)], rtol=0.0, atol=1e-6 * float(data.abs().max()))


def test_only_what_is_wanted_is_made() -> None:
    data = torch.from_numpy(volume((2, 40, 21, 33)))
    made = list(
        resample_slabs(
            data,
            resampling=named(order=1),
            shape=(50, 30, 27),
            spacing_mm=ISOTROPIC_MM,
            new_spacing_mm=ISOTROPIC_MM,
            device=CPU,
            wanted=lambda rows: None if rows.start else (slice(3, 4), slice(1, 6), slice(20, 27)),
        )
    )
    ((box, slab),) = made
    assert box == (slice(3, 4), slice(1, 6), slice(20, 27))
    expected = ours(data.numpy(), (50, 30, 27), options=named(order=1))
    np.testing.assert_allclose(slab, expected[(slice(None), *box)], rtol=0.0, atol=1e-4)


@pytest.mark.parametrize("order", [1, 3])
def test_a_part_goes_on_as_its_outermost_voxels_do(order: int) -> None:
    data = torch.from_numpy(volume((2, 30, 21, 33)))
    part = data[:, 4:23, 5:21, 0:30]
    extended = torch.from_numpy(np.pad(part.numpy(), ((0, 0), (4, 7), (5, 0), (0, 3)), mode="edge"))
    arguments = {
        "resampling": named(order=order),
        "shape": (41, 40, 25),
        "spacing_mm": ISOTROPIC_MM,
        "new_spacing_mm": ISOTROPIC_MM,
        "device": CPU,
    }
    expected = torch.empty(2, 41, 40, 25)
    resample(extended, out=expected, region=whole((41, 40, 25)), **arguments)
    got = torch.empty(2, 41, 40, 25)
    resample(part, out=got, region=whole((41, 40, 25)), part=Part((30, 21, 33), (4, 5, 0)), **arguments)
    np.testing.assert_allclose(got, expected, rtol=0.0, atol=2e-6 * float(data.abs().max()))


def test_a_part_needs_a_spline() -> None:
    data = torch.zeros(1, 5, 6, 7)
    options = named("resample_torch_fornnunet", is_seg=False)
    with pytest.raises(ValueError, match="must be resampled by a spline, got resample_torch_fornnunet"):
        list(
            resample_slabs(
                data,
                resampling=options,
                shape=(9, 9, 9),
                spacing_mm=ISOTROPIC_MM,
                new_spacing_mm=ISOTROPIC_MM,
                device=CPU,
                part=Part((6, 6, 7), (0, 0, 0)),
            )
        )
