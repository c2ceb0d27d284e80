"""Uptake that makes sense in a body, and uptake that does not."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from cases import grid_around
from petct.case import Tracer
from petct.errors import CaseError
from petct.geometry import to_image
from petct.organs import label_number
from petct.plausible import (
    body_mean_suv,
    check_ct_shows_something,
    check_units,
    contradiction,
    organ_medians_suv,
    thin,
    warn_of_other_tracer,
)

PET_GRID = grid_around((3, -4, 5), shape_zyx=(21, 17, 19), spacing_mm_xyz=(4, 5, 3), turned_deg_xyz=(5, -4, 9))
CT_GRID = grid_around((3, -4, 5), shape_zyx=(40, 44, 46), spacing_mm_xyz=(2, 2.5, 2.2), turned_deg_xyz=(0, 0, 0))
SUVS = {"brain": 9.0, "liver": 2.0, "kidney_left": 2.5}


@pytest.fixture(autouse=True)
def _log_everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def ct(*, tissue_from_y: int = 22):
    """Tissue behind a plane, air before it."""
    hu = np.full(CT_GRID.shape_zyx, -1000, dtype=np.int16)
    hu[:, tissue_from_y:] = 40
    return to_image(hu, CT_GRID)


def pet(suv: float):
    return to_image(np.full(PET_GRID.shape_zyx, suv, dtype=np.float32), PET_GRID)


def patient(**suvs: float):
    """A PET and an organ map of three slabs along z, a third of the scan each."""
    labels = np.zeros(PET_GRID.shape_zyx, dtype=np.uint8)
    uptake = np.zeros(PET_GRID.shape_zyx, dtype=np.float32)
    for place, (name, suv) in enumerate(suvs.items()):
        slab = slice(7 * place, 7 * place + 7)
        labels[slab], uptake[slab] = label_number(name), suv
    return to_image(uptake, PET_GRID), to_image(labels, PET_GRID)


@pytest.mark.parametrize("suv", [0.11, 1.0, 3.9])
def test_the_mean_over_a_body_in_suv_is_near_1(suv: float, caplog: pytest.LogCaptureFixture) -> None:
    check_units(pet(suv), ct=ct(), where="PET")
    assert body_mean_suv(pet(suv), ct=ct()) == pytest.approx(suv)
    assert not caplog.records


@pytest.mark.parametrize("suv", [0.03, 0.09, 4.1, 19.9])
def test_an_unusual_mean_is_worth_a_warning(suv: float, caplog: pytest.LogCaptureFixture) -> None:
    check_units(pet(suv), ct=ct(), where="PET")
    assert caplog.messages == [f"PET: PET should be in SUV, with a mean of 0.1-4 over the body, got {suv:.4g}"]


@pytest.mark.parametrize(
    ("suv", "got"), [(0.019, "0.019"), (20.1, "20.1, as Bq/mL have"), (4e4, "4e+04, as Bq/mL have")]
)
def test_another_unit_is_refused(suv: float, got: str) -> None:
    message = f"^PET: PET must be in SUV, with a mean of 0.02-20 over the body, got {got}$".replace("+", r"\+")
    with pytest.raises(CaseError, match=message):
        check_units(pet(suv), ct=ct(), where="PET")


def test_air_does_not_count_and_too_little_body_is_not_judged() -> None:
    uptake = np.full(PET_GRID.shape_zyx, 1e4, dtype=np.float32)
    assert body_mean_suv(to_image(uptake, PET_GRID), ct=ct(tissue_from_y=44)) is None
    check_units(to_image(uptake, PET_GRID), ct=ct(tissue_from_y=44), where="PET")


def test_a_thinned_image_keeps_its_place() -> None:
    image, _ = patient(**SUVS)
    thinned = thin(image, apart_mm=8.0)
    assert thinned.GetSize() == (10, 17, 11)  # every 2nd of 19, every one of 17, every 2nd of 21
    assert thinned.GetSpacing() == pytest.approx((8.0, 5.0, 6.0))
    assert thinned.GetOrigin() == pytest.approx(image.GetOrigin())


def test_a_ct_of_one_value_is_refused() -> None:
    hu = np.full(CT_GRID.shape_zyx, -24, dtype=np.int16)
    with pytest.raises(CaseError, match="^CT: CT must show more than one value, got -24 HU in every voxel$"):
        check_ct_shows_something(to_image(hu, CT_GRID), where="CT")
    hu[1, 1, 1] = -23  # between the samples
    check_ct_shows_something(to_image(hu, CT_GRID), where="CT")
    check_ct_shows_something(ct(), where="CT")


def test_medians_of_organs() -> None:
    image, organs = patient(**SUVS)
    assert organ_medians_suv(image, organs=organs) == {"brain": 9.0, "liver": 2.0, "kidney": 2.5}
    empty = to_image(np.zeros(PET_GRID.shape_zyx, dtype=np.uint8), PET_GRID)
    assert organ_medians_suv(image, organs=empty) == {}


@pytest.mark.parametrize(
    ("medians", "tracer", "is_certain"),
    [
        ({"brain": 9.0, "liver": 2.0, "kidney": 2.5}, Tracer.FDG, None),
        ({"brain": 9.0, "liver": 2.0, "kidney": 2.5}, Tracer.PSMA, True),
        ({"brain": 0.1, "liver": 5.0, "kidney": 30.0}, Tracer.PSMA, None),
        ({"brain": 0.1, "liver": 5.0, "kidney": 30.0}, Tracer.FDG, True),
        ({"liver": 5.0, "kidney": 30.0}, Tracer.FDG, False),  # the kidneys alone
        ({"brain": 0.1, "liver": 5.0, "kidney": 5.0}, Tracer.FDG, False),  # brain and kidneys disagree
        ({"brain": 2.5, "liver": 5.0, "kidney": 11.0}, Tracer.FDG, None),  # between the limits
        ({"brain": 9.0, "kidney": 2.5}, Tracer.PSMA, None),  # nothing to compare with
        ({}, Tracer.PSMA, None),
    ],
)
def test_which_tracer_it_looks_like(medians: dict[str, float], tracer: Tracer, is_certain: bool | None) -> None:
    found = contradiction(medians, tracer=tracer)
    assert (None if found is None else found.is_certain) is is_certain


def test_swapped_tracers_are_worth_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    image, organs = patient(**SUVS)
    warn_of_other_tracer(image, organs=organs, tracer=Tracer.FDG, where="PET")
    assert not caplog.records
    warn_of_other_tracer(image, organs=organs, tracer=Tracer.PSMA, where="PET")
    seen = "brain at 4.5 times the liver, kidneys at 1.2 times the liver"
    rule = "PET must be PSMA; PSMA and FDG may be swapped"
    assert caplog.messages == [f"PET: {rule}, got organs that look like FDG: {seen}"]
