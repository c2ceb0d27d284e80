"""Resampling around the patient, beside TotalSegmentator's own resampling of everything."""

import nibabel as nib
import numpy as np
import pytest
from totalsegmentator.resampling import change_spacing

from segmentation.totalsegmentator_resampling import BodyResampling

SHAPE_XYZ = (31, 44, 26)
SPACING_MM_XYZ = (2.7, 1.9, 3.3)
WHOLE = [(0, size) for size in SHAPE_XYZ]

# Axes of a file by the patient's direction in which they run: to the right R, to the left L and so on.
ORIENTATIONS = ("RAS", "LPS", "SLA", "PIR")


def ct_file(codes: str, *, kind: type = np.int16) -> nib.Nifti1Image:
    """Noise in HU on a grid of an orientation."""
    ornt = nib.orientations.axcodes2ornt(codes)
    affine = np.zeros((4, 4))
    for axis, (along, direction) in enumerate(ornt):
        affine[int(along), axis] = direction * SPACING_MM_XYZ[axis]
    affine[:, 3] = (13.0, -57.0, 410.0, 1.0)
    hu = np.random.default_rng(5).normal(0.0, 400.0, SHAPE_XYZ).astype(kind)
    return nib.Nifti1Image(hu, affine)


@pytest.mark.parametrize("codes", ORIENTATIONS)
@pytest.mark.parametrize("spacing_mm", [6.0, 1.5, 3.0])
def test_without_a_box_it_is_totalsegmentators(codes: str, spacing_mm: float) -> None:
    image = ct_file(codes)
    resampling = BodyResampling(WHOLE, shape_xyz=SHAPE_XYZ, affine=image.affine, least_ras=(1, 1, 1))
    canonical = nib.as_closest_canonical(image)
    spacing = [spacing_mm] * 3

    ours = resampling.change_spacing(canonical, spacing, order=1, dtype=np.int32, nr_cpus=1, use_gpu=False)
    theirs = change_spacing(canonical, spacing, order=1, dtype=np.int32)

    np.testing.assert_array_equal(np.asanyarray(ours.dataobj), np.asanyarray(theirs.dataobj))
    np.testing.assert_allclose(ours.affine, theirs.affine, rtol=0, atol=1e-6)
    labels = np.random.default_rng(6).integers(0, 118, ours.shape).astype(np.uint8)
    there = nib.Nifti1Image(labels, ours.affine)
    options = {"order": 0, "dtype": np.uint8, "force_affine": canonical.affine}
    back = resampling.change_spacing(there, spacing, canonical.shape, **options)
    np.testing.assert_array_equal(
        np.asanyarray(back.dataobj), change_spacing(there, spacing, canonical.shape, **options).get_fdata()
    )
    assert back.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(back.affine, canonical.affine)


@pytest.mark.parametrize("codes", ORIENTATIONS)
@pytest.mark.parametrize("kind", [np.int16, np.float32])
def test_box_shows_the_same_voxels_and_gives_labels_back_where_they_were(codes: str, kind: type) -> None:
    image = ct_file(codes, kind=kind)
    box = [(4, 23), (17, 41), (6, 20)]
    resampling = BodyResampling(box, shape_xyz=SHAPE_XYZ, affine=image.affine, least_ras=(1, 1, 1))
    canonical = nib.as_closest_canonical(image)
    spacing = [4.0] * 3

    ours = resampling.change_spacing(canonical, spacing, order=1, dtype=np.int32)
    theirs = change_spacing(canonical, spacing, order=1, dtype=np.int32)

    # Where the box lies among TotalSegmentator's voxels, told by position.
    low = np.linalg.solve(theirs.affine, [*ours.affine[:3, 3], 1.0])[:3]
    np.testing.assert_allclose(low, np.rint(low), rtol=0, atol=1e-4)
    inner = tuple(slice(int(start), int(start) + size) for start, size in zip(np.rint(low), ours.shape, strict=True))
    np.testing.assert_array_equal(np.asanyarray(ours.dataobj), np.asanyarray(theirs.dataobj)[inner])
    assert np.prod(ours.shape) < 0.45 * np.prod(theirs.shape)
    labels = np.zeros(theirs.shape, dtype=np.uint8)
    labels[inner] = np.random.default_rng(6).integers(1, 118, ours.shape)
    options = {"order": 0, "dtype": np.uint8, "force_affine": canonical.affine}
    back = resampling.change_spacing(nib.Nifti1Image(labels[inner], ours.affine), spacing, canonical.shape, **options)
    expected = change_spacing(nib.Nifti1Image(labels, theirs.affine), spacing, canonical.shape, **options)
    np.testing.assert_array_equal(np.asanyarray(back.dataobj), expected.get_fdata())
    # Every voxel of the CT's own box has been looked at.
    to_file = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.io_orientation(image.affine)
    )
    on_file = np.asanyarray(back.as_reoriented(to_file).dataobj)
    assert (on_file[tuple(slice(*limits) for limits in box)] > 0).all()


def test_box_is_not_smaller_than_the_networks_window() -> None:
    image = ct_file("RAS")
    spacing = [3.0] * 3
    whole = change_spacing(image, spacing, order=1, dtype=np.int32).shape
    assert whole == (28, 28, 29)
    for box, least, expected in (
        ([(10, 14), (0, 3), (20, 26)], (11, 12, 13), (11, 12, 13)),
        ([(10, 14), (0, 3), (20, 26)], (40, 12, 29), (28, 12, 29)),
        ([(2, 30), (4, 44), (3, 24)], (11, 12, 13), None),
    ):
        resampling = BodyResampling(box, shape_xyz=SHAPE_XYZ, affine=image.affine, least_ras=least)
        shown = resampling.change_spacing(image, spacing, order=1, dtype=np.int32)
        if expected is not None:
            assert shown.shape == expected
        assert all(size >= limit for size, limit in zip(shown.shape, np.minimum(least, whole), strict=True))
        labels = np.ones(shown.shape, dtype=np.uint8)
        back = resampling.change_spacing(
            nib.Nifti1Image(labels, shown.affine),
            spacing,
            SHAPE_XYZ,
            order=0,
            dtype=np.uint8,
            force_affine=image.affine,
        )
        assert np.asanyarray(back.dataobj)[tuple(slice(*limits) for limits in box)].all()


@pytest.mark.parametrize(("first", "second"), [(-1000, -1000), (-1024, -1023), (3071, 3071), (0, 1)])
def test_truncation_is_totalsegmentators_where_nothing_changes(first: int, second: int) -> None:
    # Where neighbours are equal, the weights' rounding decides what is left of a whole number.
    hu = np.full((57, 43, 38), first, dtype=np.int16)
    hu[20:, 11:] = second
    image = nib.Nifti1Image(hu, np.diag([1.17, 0.93, 2.3, 1.0]))
    resampling = BodyResampling(
        [(0, n) for n in hu.shape], shape_xyz=hu.shape, affine=image.affine, least_ras=(1, 1, 1)
    )
    ours = resampling.change_spacing(image, [3.0] * 3, order=1, dtype=np.int32)
    theirs = change_spacing(image, [3.0] * 3, order=1, dtype=np.int32)
    np.testing.assert_array_equal(np.asanyarray(ours.dataobj), np.asanyarray(theirs.dataobj))


@pytest.mark.parametrize("shape_xyz", [(1, 44, 26), (31, 2, 26), (31, 44, 1)])
def test_flat_ct_is_resampled_as_by_totalsegmentator(shape_xyz: tuple[int, int, int]) -> None:
    hu = np.random.default_rng(5).normal(0.0, 400.0, shape_xyz).astype(np.int16)
    image = nib.Nifti1Image(hu, np.diag([3.17, 4.1, 2.3, 1.0]))
    limits = [(0, n) for n in shape_xyz]
    resampling = BodyResampling(limits, shape_xyz=shape_xyz, affine=image.affine, least_ras=(1, 1, 1))
    ours = resampling.change_spacing(image, [3.0] * 3, order=1, dtype=np.int32)
    theirs = change_spacing(image, [3.0] * 3, order=1, dtype=np.int32)
    np.testing.assert_array_equal(np.asanyarray(ours.dataobj), np.asanyarray(theirs.dataobj))


def test_ct_in_the_networks_spacing_keeps_its_fractions() -> None:
    hu = np.random.default_rng(5).normal(0.0, 400.0, SHAPE_XYZ).astype(np.float32)
    image = nib.Nifti1Image(hu, np.diag([3.0, 3.0, 3.0, 1.0]))
    resampling = BodyResampling(WHOLE, shape_xyz=SHAPE_XYZ, affine=image.affine, least_ras=(1, 1, 1))
    ours = resampling.change_spacing(image, [3.0] * 3, order=1, dtype=np.int32)
    np.testing.assert_array_equal(np.asanyarray(ours.dataobj), hu)
    np.testing.assert_array_equal(change_spacing(image, [3.0] * 3, order=1, dtype=np.int32).get_fdata(), hu)


def test_only_the_interpolation_of_the_task_is_done() -> None:
    image = ct_file("RAS")
    resampling = BodyResampling(WHOLE, shape_xyz=SHAPE_XYZ, affine=image.affine, least_ras=(1, 1, 1))
    with pytest.raises(ValueError, match="labels must be resampled with order 0, got 1"):
        resampling.change_spacing(image, [6.0] * 3, SHAPE_XYZ, order=1, dtype=np.uint8)
    with pytest.raises(ValueError, match="the CT must be resampled with order 1, got 3"):
        resampling.change_spacing(image, [6.0] * 3, order=3, dtype=np.int32)
