"""Organ names: the table is TotalSegmentator's, and the eight classes are made by name."""

from __future__ import annotations

import numpy as np
import pytest

from petct.organs import Organ, collapse, label_number, labels_of, totalsegmentator_labels


def test_the_table_is_the_installed_package_s():
    from totalsegmentator.map_to_binary import class_map

    assert totalsegmentator_labels() == class_map["total"]
    assert len(totalsegmentator_labels()) == 117


def test_the_eight_classes_are_in_the_method_s_order():
    assert [(organ.name, int(organ)) for organ in Organ] == [
        ("SPLEEN", 1),
        ("KIDNEY", 2),
        ("LIVER", 3),
        ("LUNG", 4),
        ("BRAIN", 5),
        ("URINARY_BLADDER", 6),
        ("BONE", 7),
        ("THYROID", 8),
    ]


def test_number_of_labels_in_each_class():
    # Bone: sacrum, 7 + 12 + 5 vertebrae and S1, five paired bones, skull, 2 x 12 ribs, sternum.
    bone = 1 + (7 + 12 + 5 + 1) + 5 * 2 + 1 + 2 * 12 + 1
    assert {organ.name: len(set(labels_of(organ))) for organ in Organ} == {
        "SPLEEN": 1,
        "KIDNEY": 2,
        "LIVER": 1,
        "LUNG": 5,
        "BRAIN": 1,
        "URINARY_BLADDER": 1,
        "BONE": bone,
        "THYROID": 1,
    }


def test_every_label_collapses_to_its_class_or_to_nothing():
    labels = np.arange(118, dtype=np.int16).reshape(2, 59, 1)
    organs = collapse(labels)
    assert organs.dtype == np.uint8
    assert organs.shape == (2, 59, 1)
    class_of = dict(zip(labels.ravel().tolist(), organs.ravel().tolist(), strict=True))
    for name, organ in {
        "spleen": Organ.SPLEEN,
        "kidney_left": Organ.KIDNEY,
        "kidney_right": Organ.KIDNEY,
        "liver": Organ.LIVER,
        "lung_middle_lobe_right": Organ.LUNG,
        "brain": Organ.BRAIN,
        "urinary_bladder": Organ.URINARY_BLADDER,
        "vertebrae_S1": Organ.BONE,
        "vertebrae_C1": Organ.BONE,
        "rib_left_12": Organ.BONE,
        "hip_right": Organ.BONE,
        "thyroid_gland": Organ.THYROID,
        "prostate": 0,
        "costal_cartilages": 0,
        "heart": 0,
        "spinal_cord": 0,
        "gluteus_maximus_left": 0,
        "kidney_cyst_left": 0,
    }.items():
        assert class_of[label_number(name)] == organ, name
    assert class_of[0] == 0
    in_a_class = {number for organ in Organ for number in labels_of(organ)}
    assert {number for number, organ in class_of.items() if organ} == in_a_class


def test_an_empty_map_collapses_to_an_empty_map():
    assert not collapse(np.zeros((3, 4, 5), dtype=np.uint8)).any()
    assert collapse(np.zeros((0, 4, 5), dtype=np.uint8)).shape == (0, 4, 5)


@pytest.mark.parametrize("label", [-1, 118, 300])
def test_an_unknown_label_is_refused(label):
    with pytest.raises(ValueError, match=f"organ labels must be within 0-117, got .*{label}"):
        collapse(np.array([[[0, label]]], dtype=np.int16))


def test_an_unknown_name_is_refused():
    with pytest.raises(KeyError, match="kidney"):
        label_number("kidney")
