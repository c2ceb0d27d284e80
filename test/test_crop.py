from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from petct.manifest import Mode
from segmentation.crop import (
    AIR_MM,
    ANY_CROP,
    CONTEXT_MM,
    Surroundings,
    look_around,
    network_region,
    scan_box,
    visible_box,
)
from segmentation.needed import Needed
from segmentation.preprocessing import Placement, whole_box
from segmentation.resampling import Box, Part

SHAPE = (400, 90, 110)
SPACING_MM = (3.0, 5.0, 4.0)
BODY = (slice(10, 390), slice(20, 70), slice(15, 95))
WHOLE = (slice(0, 400), slice(0, 90), slice(0, 110))


def around(*places_zyx: tuple[int, int, int]) -> Surroundings:
    mask = np.zeros(SHAPE, dtype=np.bool_)
    for place in places_zyx:
        mask[place] = True
    return Surroundings(BODY, Needed.around(mask, reach=(3, 2, 2)))


def visible(surroundings: Surroundings, mode: Mode) -> Box:
    return visible_box(surroundings, mode=mode, shape_zyx=SHAPE, spacing_mm_zyx=SPACING_MM)


def test_an_exact_run_sees_everything() -> None:
    assert visible(around((200, 40, 50)), Mode.EXACT) == WHOLE
    assert visible(replace(around(), body=None), Mode.EXACT) == WHOLE


def test_a_balanced_run_sees_the_body() -> None:
    assert visible(around((200, 40, 50)), Mode.BALANCED) == BODY
    assert visible(around(), Mode.BALANCED) == BODY


def test_a_fast_run_sees_the_body_near_what_matters() -> None:
    # Context of 20, 12 and 15 voxels beyond a reach of 3, 2 and 2.
    assert CONTEXT_MM == 60.0 == 20 * 3.0 == 12 * 5.0 == 15 * 4.0
    seen = visible(around((200, 40, 50), (230, 42, 48)), Mode.FAST)
    assert seen == (slice(200 - 23, 231 + 23), slice(40 - 14, 43 + 14), slice(48 - 17, 51 + 17))
    assert visible(around((20, 40, 50)), Mode.FAST)[0] == slice(10, 21 + 23)
    assert visible(around(), Mode.FAST) == BODY


@pytest.mark.parametrize("mode", [Mode.BALANCED, Mode.FAST])
def test_what_matters_is_never_cut_off(mode: Mode) -> None:
    # Uptake in a hand outside what was taken for the body, and below the feet.
    seen = visible(around((395, 40, 4), (200, 88, 50)), mode)
    needed = (slice(197, 399), slice(38, 90), slice(2, 53))
    assert all(
        side.start <= wanted.start and wanted.stop <= side.stop for side, wanted in zip(seen, needed, strict=True)
    )
    assert seen[0].stop == 399
    assert seen[1].stop == 90
    assert seen[2].start == 2


def placement(*, transpose: tuple[int, int, int] = (1, 0, 2)) -> Placement:
    return Placement(
        transpose=transpose,
        shape=tuple(SHAPE[axis] for axis in transpose),
        box=tuple((0, SHAPE[axis]) for axis in transpose),
        spacing_mm=tuple(SPACING_MM[axis] for axis in transpose),
        network_spacing_mm=(4.0, 6.0, 5.0),
    )


def test_a_region_holds_the_box_in_the_networks_voxels() -> None:
    # Axes y, z, x of 90, 400, 110 voxels of 5, 3, 4 mm become 112 (from 112.5), 200 and 88 of 4, 6, 5 mm.
    box = (slice(40, 360), slice(18, 72), slice(11, 99))
    region = network_region(box, placement=placement(), window=(16, 24, 16), tile_step=0.5, worth_windows=0.5)
    assert placement().network_shape == (112, 200, 88)
    assert region == (slice(22, 90), slice(20, 180), slice(8, 80))  # 18 * 112 / 90 = 22.4, 72 * 112 / 90 = 89.6


def test_a_region_is_never_smaller_than_a_window() -> None:
    spot = (slice(0, 4), slice(80, 90), slice(50, 52))
    region = network_region(spot, placement=placement(), window=(48, 64, 200), tile_step=0.5, worth_windows=0.5)
    assert region == (slice(112 - 48, 112), slice(0, 64), slice(0, 88))


def test_an_axis_is_cropped_only_if_that_saves_windows() -> None:
    # y: 112 voxels take ceil(64 / 24) + 1 = 4 windows of 48, 60 take 2; z: 200 take ceil(136 / 32) + 1 = 6 windows of
    # 64, and 180 take 5; x: 88 and 82 voxels take 2 windows of 64 both.
    box = (slice(20, 380), slice(20, 68), slice(2, 104))
    region = network_region(box, placement=placement(), window=(48, 64, 64), tile_step=0.5, worth_windows=0.5)
    assert region == (slice(24, 85), slice(10, 190), slice(0, 88))
    cropped = network_region(box, placement=placement(), window=(48, 64, 64), tile_step=0.5, worth_windows=ANY_CROP)
    assert cropped == (slice(24, 85), slice(10, 190), slice(1, 84))  # 2 * 88 / 110 = 1.6, 104 * 88 / 110 = 83.2


def test_a_crop_that_saves_too_few_windows_moves_none() -> None:
    # As above but for y, where 82 voxels still take 3 of 4 windows: 3 * 5 * 2 of 4 * 6 * 2 are more than a half.
    box = (slice(20, 380), slice(20, 86), slice(2, 104))
    for worth_windows, stays in ((0.5, True), (0.7, False)):
        region = network_region(
            box, placement=placement(), window=(48, 64, 64), tile_step=0.5, worth_windows=worth_windows
        )
        assert (region == whole_box((112, 200, 88))) is stays


sides = [st.tuples(st.integers(0, size - 1), st.integers(1, size)) for size in SHAPE]


@settings(max_examples=200, deadline=None)
@given(
    edges=st.tuples(*sides),
    transpose=st.permutations((0, 1, 2)),
    window=st.tuples(*[st.integers(8, 250)] * 3),
    worth_windows=st.sampled_from((0.0, 0.5, 1.0)),
)
def test_every_region_holds_its_box_and_a_window(
    edges: tuple[tuple[int, int], ...], transpose: list[int], window: tuple[int, int, int], worth_windows: float
) -> None:
    box = tuple(slice(low, min(low + length, size)) for (low, length), size in zip(edges, SHAPE, strict=True))
    where = placement(transpose=(transpose[0], transpose[1], transpose[2]))
    region = network_region(
        (box[0], box[1], box[2]), placement=where, window=window, tile_step=0.5, worth_windows=worth_windows
    )
    for axis, side in enumerate(region):
        size = where.network_shape[axis]
        per_voxel = size / where.shape[axis]
        assert 0 <= side.start < side.stop <= size
        assert side.stop - side.start >= min(window[axis], size)
        asked = box[transpose[axis]]
        assert side.start <= asked.start * per_voxel
        assert side.stop >= asked.stop * per_voxel - 1e-9


def test_a_window_may_change_the_voxels_around_it() -> None:
    part = Part(placement().network_shape, (10, 20, 8))
    box = scan_box((slice(0, 16), slice(0, 24), slice(40, 80)), part=part, placement=placement(), reach=2)
    # Axis 0: network voxels 8 to 28 of 112 are scan voxels 6.4 to 22.5 of 90; axis 2: 46 to 90 of 88 are 57.5 to 110.
    assert box == (slice(6, 23), slice(36, 92), slice(57, 110))


class Patient:
    """A block of tissue in air, with one hot voxel."""

    grid = SimpleNamespace(spacing_mm_zyx=SPACING_MM)
    ct_hu = np.full(SHAPE, -1000.0, dtype=np.float32)
    ct_hu[40:360, 30:60, 30:80] = 20.0
    can_be_disease = np.zeros(SHAPE, dtype=np.bool_)
    can_be_disease[100, 40, 50] = True


def test_the_surroundings_of_a_patient() -> None:
    seen = look_around(Patient, has_body=True, reach_mm=7.0)
    assert seen.body is not None
    for axis, (low, high) in enumerate(((40, 360), (30, 60), (30, 80))):
        air = AIR_MM / SPACING_MM[axis]
        assert low - 4 * air <= seen.body[axis].start <= low - air
        assert high + air <= seen.body[axis].stop <= high + 4 * air
    # ceil(7 / 3) + 1, ceil(7 / 5) + 1 and ceil(7 / 4) + 1 voxels to each side
    assert seen.needed.box() == (slice(96, 105), slice(37, 44), slice(47, 54))
    assert look_around(Patient, has_body=False, reach_mm=0.0).body is None
