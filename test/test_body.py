"""The box around the patient in a CT."""

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from petct.body import body_box
from petct.case import Tracer
from petct.geometry import grid_of, to_array
from training.phantoms.patient import generate_patient
from training.phantoms.scanner import PhantomSize

SHAPE_ZYX = (110, 130, 160)
SPACING_MM_ZYX = (4.1, 3.3, 3.7)  # 451 x 429 x 592 mm
# What the box may be larger than the patient: one cell, and a table that the patient lies on.
SLACK_MM = 45.0


def position_mm_zyx(shape_zyx=SHAPE_ZYX, spacing_mm_zyx=SPACING_MM_ZYX):
    """Coordinates of the voxels' centres from the middle of the scan, in mm."""
    axes = [(np.arange(n) - (n - 1) / 2.0) * s for n, s in zip(shape_zyx, spacing_mm_zyx, strict=True)]
    return np.meshgrid(*axes, indexing="ij", sparse=True)


def ellipsoid(centre_mm_zyx, radii_mm_zyx, *, shape_zyx=SHAPE_ZYX, spacing_mm_zyx=SPACING_MM_ZYX):
    parts = zip(position_mm_zyx(shape_zyx, spacing_mm_zyx), centre_mm_zyx, radii_mm_zyx, strict=True)
    return sum(((p - c) / r) ** 2 for p, c, r in parts) <= 1.0


def ct(*masks, shape_zyx=SHAPE_ZYX, hu=40, noise_hu=20.0):
    """Air with tissue in the masks, and noise."""
    hu_zyx = np.full(shape_zyx, -1000.0)
    for mask in masks:
        hu_zyx[np.broadcast_to(mask, shape_zyx)] = hu
    hu_zyx += np.random.default_rng(3).normal(0.0, noise_hu, shape_zyx)
    return np.rint(hu_zyx).astype(np.int16)


def bounds(mask):
    return [(int(indices.min()), int(indices.max()) + 1) for indices in np.nonzero(mask)]


def assert_close_around(box, mask, *, margin_mm=0.0, slack_mm=SLACK_MM, spacing_mm_zyx=SPACING_MM_ZYX):
    """All of the mask and its margin lies in the box, and not much else does."""
    for axis, (part, (low, high)) in enumerate(zip(box, bounds(mask), strict=True)):
        spacing = spacing_mm_zyx[axis]
        inner = max(0, low - margin_mm / spacing), min(mask.shape[axis], high + margin_mm / spacing)
        assert part.start <= inner[0], (axis, part, inner)
        assert part.stop >= inner[1], (axis, part, inner)
        assert part.start >= max(0, low - (margin_mm + slack_mm) / spacing), (axis, part, inner)
        assert part.stop <= min(mask.shape[axis], high + (margin_mm + slack_mm) / spacing), (axis, part, inner)
        assert part.step is None


TRUNK = ellipsoid((10.0, -60.0, 15.0), (160.0, 75.0, 130.0))


@pytest.mark.parametrize("margin_mm", [0.0, 25.0])
def test_box_holds_the_patient_and_the_margin(margin_mm: float) -> None:
    box = body_box(ct(TRUNK), spacing_mm_zyx=SPACING_MM_ZYX, margin_mm=margin_mm)
    # Without a table, only the size of a cell is to spare.
    assert_close_around(box, TRUNK, margin_mm=margin_mm, slack_mm=15.0)


def test_margin_ends_where_the_scan_ends() -> None:
    box = body_box(ct(TRUNK), spacing_mm_zyx=SPACING_MM_ZYX, margin_mm=1000.0)
    assert box == tuple(slice(0, size) for size in SHAPE_ZYX)


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.float32, np.float64])
def test_pixel_type_and_order_in_memory_change_nothing(kind: type) -> None:
    hu = ct(TRUNK)
    box = body_box(hu, spacing_mm_zyx=SPACING_MM_ZYX, margin_mm=10.0)
    assert body_box(np.asfortranarray(hu.astype(kind)), spacing_mm_zyx=SPACING_MM_ZYX, margin_mm=10.0) == box


def test_axes_are_not_mixed_up() -> None:
    hu = ct(TRUNK)
    box = body_box(hu, spacing_mm_zyx=SPACING_MM_ZYX, margin_mm=12.0)
    for order in ((1, 2, 0), (2, 0, 1), (0, 2, 1)):
        spacing = tuple(SPACING_MM_ZYX[axis] for axis in order)
        turned = body_box(hu.transpose(order), spacing_mm_zyx=spacing, margin_mm=12.0)
        assert turned == tuple(box[axis] for axis in order)


def test_table_blanket_and_tubes_are_left_out() -> None:
    z, y, x = position_mm_zyx()
    everywhere = z < 1000.0
    table = (abs(x) < 270.0) & (abs(y - 40.0) < 4.5) & everywhere  # 9 mm thick, and wider than the patient
    blanket = (abs(x) < 250.0) & (abs(y + 175.0) < 3.0) & everywhere
    tube = ((x - 230.0) ** 2 + (y + 100.0) ** 2 < 6.0**2) & everywhere
    box = body_box(ct(TRUNK, table, blanket, tube), spacing_mm_zyx=SPACING_MM_ZYX, margin_mm=0.0)
    # The table lies on the patient's back (y = 15 mm) and is followed for three cells.
    assert_close_around(box, TRUNK)
    assert box[1].start > 0
    assert box[2].start > bounds(table & (everywhere | TRUNK))[2][0]


@pytest.mark.parametrize("gap_mm", [20.0, 90.0])
def test_arms_beside_the_trunk_belong_to_it(gap_mm: float) -> None:
    arm = ellipsoid((0.0, -40.0, 145.0 + gap_mm + 30.0), (140.0, 30.0, 28.0))
    other = ellipsoid((0.0, -40.0, 15.0 - 130.0 - gap_mm - 30.0), (140.0, 30.0, 28.0))
    box = body_box(ct(TRUNK, arm, other), spacing_mm_zyx=SPACING_MM_ZYX, margin_mm=5.0)
    assert_close_around(box, TRUNK | arm | other, margin_mm=5.0, slack_mm=15.0)


def test_arms_above_the_head_belong_to_the_patient_with_hands() -> None:
    head = ellipsoid((30.0, -60.0, 10.0), (110.0, 90.0, 75.0))
    z, y, x = position_mm_zyx()
    arms = [((y + 60.0) ** 2 + (abs(x) - 95.0) ** 2 < 25.0**2) & (z > 100.0) & (z < 190.0)]
    fingers = [(abs(y + 60.0) < 9.0) & (abs(abs(x) - 95.0) < 40.0) & (z >= 150.0) & (z < 205.0)]
    patient = head | arms[0] | fingers[0]
    box = body_box(ct(head, *arms, *fingers), spacing_mm_zyx=SPACING_MM_ZYX, margin_mm=0.0)
    assert_close_around(box, patient, slack_mm=15.0)


def test_legs_apart_are_one_patient() -> None:
    z, y, x = position_mm_zyx()
    legs = [((y + 10.0) ** 2 + (x - at) ** 2 < 60.0**2) & (z > -1000.0) for at in (-120.0, 140.0)]
    box = body_box(ct(*legs), spacing_mm_zyx=SPACING_MM_ZYX, margin_mm=0.0)
    assert_close_around(box, legs[0] | legs[1], slack_mm=15.0)
    assert (box[0].start, box[0].stop) == (0, SHAPE_ZYX[0])


def test_what_is_small_is_no_limb() -> None:
    ball = ellipsoid((150.0, 140.0, -230.0), (25.0, 25.0, 25.0))  # 65 mL
    box = body_box(ct(TRUNK, ball), spacing_mm_zyx=SPACING_MM_ZYX, margin_mm=0.0)
    assert_close_around(box, TRUNK, slack_mm=15.0)


def test_metal_and_its_shadows_do_not_matter() -> None:
    hu = ct(TRUNK)
    hip = ellipsoid((-60.0, -60.0, 80.0), (60.0, 25.0, 25.0))
    shadow = ellipsoid((-60.0, -60.0, 15.0), (6.0, 20.0, 110.0))
    hu[np.broadcast_to(shadow, SHAPE_ZYX)] = -1024
    hu[np.broadcast_to(hip, SHAPE_ZYX)] = 31743
    box = body_box(hu, spacing_mm_zyx=SPACING_MM_ZYX, margin_mm=0.0)
    assert_close_around(box, TRUNK, slack_mm=15.0)


def test_rotated_head_is_whole() -> None:
    z, y, x = position_mm_zyx()
    turned = Rotation.from_euler("xyz", (20.0, -15.0, 35.0), degrees=True).as_matrix()
    at = [turned[i, 0] * x + turned[i, 1] * (y + 40.0) + turned[i, 2] * (z - 20.0) for i in range(3)]
    head = (at[0] / 75.0) ** 2 + (at[1] / 100.0) ** 2 + (at[2] / 115.0) ** 2 <= 1.0
    nose = (abs(at[0]) < 10.0) & (at[1] < -90.0) & (at[1] > -125.0) & (abs(at[2]) < 20.0)
    ear = (abs(at[0]) < 92.0) & (abs(at[1] - 10.0) < 18.0) & (abs(at[2]) < 30.0)
    box = body_box(ct(head, nose, ear), spacing_mm_zyx=SPACING_MM_ZYX, margin_mm=0.0)
    assert_close_around(box, head | nose | ear, slack_mm=15.0)


@pytest.mark.parametrize("hu", [-1000, -3024, -501])
def test_scan_that_shows_nobody_stays_whole(hu: int) -> None:
    empty = np.full((31, 43, 37), hu, dtype=np.int16)
    assert body_box(empty, spacing_mm_zyx=(5.0, 3.0, 2.0), margin_mm=20.0) == (slice(0, 31), slice(0, 43), slice(0, 37))


def test_table_alone_is_nobody() -> None:
    z, y, x = position_mm_zyx()
    table = (abs(x) < 220.0) & (abs(y - 40.0) < 4.5) & (z > -1000.0)
    assert body_box(ct(table), spacing_mm_zyx=SPACING_MM_ZYX, margin_mm=0.0) == tuple(slice(0, n) for n in SHAPE_ZYX)


@pytest.mark.parametrize(
    ("shape_zyx", "spacing_mm_zyx"),
    [
        ((14, 21, 18), (2.5, 2.0, 1.5)),
        ((1, 40, 30), (3.0, 8.0, 9.0)),
        ((7, 3, 90), (0.3, 0.5, 1.0)),
        ((5, 4, 6), (40.0, 60.0, 50.0)),
    ],
)
def test_small_scan_full_of_tissue_stays_whole(shape_zyx, spacing_mm_zyx) -> None:
    hu = np.full(shape_zyx, 40, dtype=np.int16)
    assert body_box(hu, spacing_mm_zyx=spacing_mm_zyx, margin_mm=0.0) == tuple(slice(0, n) for n in shape_zyx)


@pytest.mark.parametrize("spacing_mm_zyx", [(1.3, 1.1, 0.9), (2.0, 1.17, 1.4), (5.0, 4.07, 3.0), (6.1, 11.0, 8.0)])
def test_voxel_size_does_not_matter(spacing_mm_zyx) -> None:
    shape = tuple(int(length / s) for length, s in zip((300.0, 260.0, 340.0), spacing_mm_zyx, strict=True))
    body = ellipsoid((20.0, -30.0, 12.0), (100.0, 80.0, 120.0), shape_zyx=shape, spacing_mm_zyx=spacing_mm_zyx)
    box = body_box(ct(body, shape_zyx=shape), spacing_mm_zyx=spacing_mm_zyx, margin_mm=10.0)
    assert_close_around(box, body, margin_mm=10.0, slack_mm=25.0, spacing_mm_zyx=spacing_mm_zyx)


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_no_label_of_a_phantom_is_outside(seed: int) -> None:
    phantom = generate_patient(seed, size=PhantomSize.TINY)
    for tracer in Tracer:
        scan = {Tracer.PSMA: phantom.psma, Tracer.FDG: phantom.fdg}[tracer]
        hu, labels = to_array(scan.ct), to_array(scan.organs)
        box = body_box(hu, spacing_mm_zyx=grid_of(scan.ct).spacing_mm_zyx, margin_mm=0.0)
        outside = np.ones(labels.shape, dtype=bool)
        outside[box] = False
        assert not labels[outside].any()
        assert outside.mean() > 0.2
        # The CT is read the same in another orientation.
        other = sitk.DICOMOrient(scan.ct, "SAR")
        there = body_box(to_array(other), spacing_mm_zyx=grid_of(other).spacing_mm_zyx, margin_mm=0.0)
        assert sorted(part.stop - part.start for part in there) == pytest.approx(
            sorted(part.stop - part.start for part in box), abs=2
        )


def test_arguments_that_mean_nothing_are_refused() -> None:
    hu = np.zeros((4, 5, 6), dtype=np.int16)
    with pytest.raises(ValueError, match=r"CT must be 3D with voxels, got shape \(5, 6\)"):
        body_box(hu[0], spacing_mm_zyx=(1.0, 2.0, 3.0), margin_mm=0.0)
    with pytest.raises(ValueError, match=r"got shape \(0, 5, 6\)"):
        body_box(hu[:0], spacing_mm_zyx=(1.0, 2.0, 3.0), margin_mm=0.0)
    for spacing, margin_mm in (((1.0, 0.0, 3.0), 0.0), ((1.0, 2.0, 3.0), -1.0), ((1.0, float("nan"), 3.0), 0.0)):
        with pytest.raises(ValueError, match=r"spacing must be > 0 and margin >= 0, got \(1.0, "):
            body_box(hu, spacing_mm_zyx=spacing, margin_mm=margin_mm)
