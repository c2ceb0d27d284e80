"""What is refused before anything is computed, what is only suspicious, and what is all right."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import SimpleITK as sitk

from cases import CT_GRIDS, PET_GRIDS, PSMA_CENTRE_MM, ct_image, grid_around, organ_image, pet_image
from petct.checks import check_ct, check_organs, check_overlap, check_pet, check_threshold
from petct.errors import CaseError
from petct.geometry import to_array, to_image


def _with(image, *values):
    """The image with some voxels changed, from (z, y, x) = (0, 0, 0) along x."""
    changed = sitk.Image(image)
    for x, value in enumerate(values):
        changed[x, 0, 0] = value
    return changed


@pytest.fixture(autouse=True)
def _log_everything(caplog):
    caplog.set_level(logging.INFO)


# Threshold


@pytest.mark.parametrize(
    ("value", "suv"),
    [(3.0, 3.0), (4, 4.0), ({"suv_threshold": 2.41}, 2.41), ({"suv_threshold": 3, "unit": "SUV"}, 3.0)],
)
def test_a_threshold_is_a_number_bare_or_named(value, suv, caplog):
    assert check_threshold(value, where="t.json") == suv
    assert isinstance(check_threshold(value, where="t.json"), float)
    assert not caplog.records


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0, "^t.json: SUV threshold must be > 0, got 0$"),
        (-1.0, "^t.json: SUV threshold must be > 0, got -1.0$"),
        (float("nan"), "^t.json: SUV threshold must be finite, got nan$"),
        (float("inf"), "^t.json: SUV threshold must be finite, got inf$"),
        (10**400, "^t.json: SUV threshold must be finite, got 1000"),
        (True, "^t.json: SUV threshold must be a number, got True$"),
        ("3.0", "^t.json: SUV threshold must be a number, got '3.0'$"),
        (None, "^t.json: SUV threshold must be a number, got None$"),
        ([3.0], r"^t.json: SUV threshold must be a number, got \[3.0\]$"),
        ({"suv_threshold": "3"}, "^t.json: SUV threshold must be a number, got '3'$"),
        ({"suv_threshold": {"suv_threshold": 3}}, "^t.json: SUV threshold must be a number, got {'suv_threshold': 3}$"),
        ({"threshold": 3.0}, "^t.json: SUV threshold must be a number or hold suv_threshold, got {'threshold': 3.0}$"),
    ],
)
def test_anything_else_is_no_threshold(value, message):
    with pytest.raises(CaseError, match=message):
        check_threshold(value, where="t.json")


@pytest.mark.parametrize("value", [0.5, 41.0])
def test_an_odd_threshold_is_taken_with_a_warning(value, caplog):
    assert check_threshold(value, where="t.json") == value
    assert f"t.json: SUV threshold {value:g} is outside the usual 1-10" in caplog.text


# PET


def test_a_pet_that_is_all_right(caplog):
    check_pet(pet_image(), suv_threshold=3.0, where="PET")
    assert not caplog.records


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_voxel_that_is_not_finite_is_refused(value):
    with pytest.raises(CaseError, match="^PET: every voxel must be finite, got nan or infinite voxels$"):
        check_pet(_with(pet_image(), value), suv_threshold=3.0, where="PET")
    with pytest.raises(CaseError, match="^CT: every voxel must be finite"):
        check_ct(_with(sitk.Cast(ct_image(), sitk.sitkFloat32), value), where="CT")


def test_an_image_of_nothing_but_nan_is_refused():
    image = to_image(np.full(PET_GRIDS["PSMA"].shape_zyx, np.nan), PET_GRIDS["PSMA"])
    with pytest.raises(CaseError, match="every voxel must be finite"):
        check_pet(image, suv_threshold=3.0, where="PET")


def test_an_empty_pet_is_refused():
    with pytest.raises(CaseError, match="^PET: PET must have voxels above 0 SUV, got a maximum of 0 SUV$"):
        check_pet(pet_image() * 0.0, suv_threshold=3.0, where="PET")


@pytest.mark.parametrize(
    ("maximum_suv", "lowest_suv", "is_refused"),
    [
        (4.0, -0.49, False),  # never below 0.5 SUV
        (4.0, -0.51, True),
        (60.0, -5.9, False),  # a tenth of the maximum
        (60.0, -6.1, True),
        (400.0, -19.9, False),  # never beyond 20 SUV
        (400.0, -20.1, True),
    ],
)
def test_a_pet_may_be_negative_as_noise_is(maximum_suv, lowest_suv, is_refused):
    pet = _with(to_image(np.zeros(PET_GRIDS["PSMA"].shape_zyx), PET_GRIDS["PSMA"]), maximum_suv, lowest_suv)
    if is_refused:
        with pytest.raises(
            CaseError, match=r"^PET: PET must not be negative beyond noise \(-[\d.]+ SUV\), got -[\d.]+ SUV$"
        ):
            check_pet(pet, suv_threshold=3.0, where="PET")
    else:
        check_pet(pet, suv_threshold=3.0, where="PET")


def test_a_ct_is_no_pet():
    with pytest.raises(CaseError, match="PET must not be negative beyond noise"):
        check_pet(ct_image(), suv_threshold=3.0, where="PET")


def test_a_pet_in_bq_per_ml_is_suspicious(caplog):
    check_pet(pet_image() * 1500.0, suv_threshold=3.0, where="PET")
    assert "PET: the maximum of 30000 does not look like SUV" in caplog.text


def test_a_pet_with_nothing_at_the_threshold_is_worth_a_line(caplog):
    check_pet(pet_image(), suv_threshold=20.5, where="PET")
    assert "PET: no voxel reaches the threshold, the maximum is 20 SUV" in caplog.text


@pytest.mark.parametrize("direction", [(1, 0, 0, 0, 1, 0, 0, 0, -1), (0, 0, 1, 1, 0, 0, 0, 1, 0)])
def test_axes_that_no_network_was_trained_on_are_suspicious(direction, caplog):
    pet = pet_image()
    pet.SetDirection(direction)
    check_pet(pet, suv_threshold=3.0, where="PET")
    assert "PET: the voxel axes do not run left, posterior, superior" in caplog.text


# CT


def test_a_ct_that_is_all_right(caplog):
    check_ct(ct_image(), where="CT")
    check_overlap(ct_image(), pet_image(), where="CT", pet_where="PET")
    assert not caplog.records


def test_a_ct_without_air_is_suspicious(caplog):
    check_ct(pet_image(), where="CT")
    assert "does not look like HU" in caplog.text


def _half_overlap(fraction):
    """A PET-like grid that covers a known fraction of the PET along its own z."""
    grid = PET_GRIDS["PSMA"]
    deep = grid.shape_zyx[0]
    ct = pet_image()
    ct.SetOrigin(grid.position_mm_xyz((deep * (1.0 - fraction), 0, 0)))
    return ct


@pytest.mark.parametrize(
    ("fraction", "outcome"), [(1.0, "fine"), (0.5, "fine"), (0.1, "warned"), (0.02, "refused"), (-3.0, "refused")]
)
def test_a_ct_must_lie_where_the_pet_lies(fraction, outcome, caplog):
    ct = _half_overlap(fraction)
    if outcome == "refused":
        with pytest.raises(CaseError, match=r"^CT: CT must cover at least 5% of PET, got [0-4]\.\d%$"):
            check_overlap(ct, pet_image(), where="CT", pet_where="PET")
    else:
        check_overlap(ct, pet_image(), where="CT", pet_where="PET")
        assert ("covers only" in caplog.text) == (outcome == "warned")


def test_the_covered_share_is_counted_in_the_patient(caplog):
    # 10 of 100 mm along the patient's left, whatever the axes are called: x of the PET, y of the CT.
    pet = to_image(
        np.zeros((9, 8, 50)),
        grid_around((0, 0, 0), shape_zyx=(9, 8, 50), spacing_mm_xyz=(2, 7, 5), turned_deg_xyz=(0, 0, 0)),
    )
    ct_grid = grid_around((45, 0, 0), shape_zyx=(30, 10, 90), spacing_mm_xyz=(2, 1, 3), turned_deg_xyz=(0, 0, 90))
    check_overlap(to_image(np.zeros((30, 10, 90)), ct_grid), pet, where="CT", pet_where="PET")
    # 24 points stand for each axis: of 100 mm, those at 91.7 and 95.8 mm and so on are within the last 10.
    assert "CT: the CT covers only 8 % of PET" in caplog.text


# Organs


@pytest.mark.parametrize("pixel", [np.uint8, np.int16, np.int32, np.uint64, np.float32, np.float64])
def test_whole_labels_of_any_type_become_uint8(pixel, caplog):
    organs = check_organs(organ_image(pixel=pixel), ct=ct_image(), where="organs", ct_where="CT")
    assert organs.GetPixelID() == sitk.sitkUInt8
    assert np.array_equal(to_array(organs), to_array(organ_image()))
    assert not caplog.records


@pytest.mark.parametrize(
    ("pixel", "value", "message"),
    [
        (np.uint8, 118, "^organs: organ labels must be within 0-117, got 0 to 118$"),
        (np.int16, -1, "^organs: organ labels must be within 0-117, got -1 to 117$"),
        (np.int32, 300, "^organs: organ labels must be within 0-117, got 0 to 300$"),
        (np.float32, 2.5, "^organs: organ labels must be whole numbers, got 2.5$"),
        (np.float64, 116.999, "^organs: organ labels must be whole numbers, got 116.999$"),
        (np.float32, float("nan"), "^organs: every voxel must be finite"),
    ],
)
def test_other_values_are_no_labels(pixel, value, message):
    organs = organ_image(pixel=pixel)
    organs[17, 20, 13] = value
    with pytest.raises(CaseError, match=message):
        check_organs(organs, ct=ct_image(), where="organs", ct_where="CT")


def test_organs_must_lie_on_the_ct_s_grid():
    organs = organ_image()
    x, y, z = organs.GetOrigin()
    organs.SetOrigin((x, y, z + 3.2))
    with pytest.raises(
        CaseError, match="^organs: grid must match CT within 0.01 mm, got origin that differs by 3.2 mm along z$"
    ):
        check_organs(organs, ct=ct_image(), where="organs", ct_where="CT")
    with pytest.raises(CaseError, match=r"^organs: grid must match CT, got \(7, 9, 11\) voxels"):
        check_organs(pet_image(), ct=ct_image(), where="organs", ct_where="CT")


def test_an_empty_organ_map_is_taken_with_a_warning(caplog):
    empty = to_image(np.zeros(CT_GRIDS["PSMA"].shape_zyx, dtype=np.uint8), CT_GRIDS["PSMA"])
    assert not to_array(check_organs(empty, ct=ct_image(), where="organs", ct_where="CT")).any()
    assert "organs: the organ map is empty" in caplog.text


def test_the_test_s_grids_share_a_middle():
    # What the overlap tests stand on: both boxes are about the same point.
    for grid in (PET_GRIDS["PSMA"], CT_GRIDS["PSMA"]):
        assert np.mean(grid.corners_mm_xyz(), axis=0) == pytest.approx(PSMA_CENTRE_MM)
