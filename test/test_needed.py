import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from segmentation.needed import Needed

SHAPE = (9, 6, 11)


def spots(*places_zyx: tuple[int, int, int]) -> npt.NDArray[np.bool_]:
    mask = np.zeros(SHAPE, dtype=np.bool_)
    for place in places_zyx:
        mask[place] = True
    return mask


def grown(mask: npt.NDArray[np.bool_], reach: tuple[int, int, int]) -> npt.NDArray[np.bool_]:
    """The box of voxels around each spot, one by one."""
    result = np.zeros_like(mask)
    for place in np.argwhere(mask):
        result[tuple(slice(max(0, p - r), p + r + 1) for p, r in zip(place, reach, strict=True))] = True
    return result


def test_the_box_around_one_spot() -> None:
    needed = Needed.around(spots((4, 1, 7)), reach=(2, 3, 1))
    assert needed.shape == SHAPE
    assert needed.box() == (slice(2, 7), slice(0, 5), slice(6, 9))
    assert needed.box(slice(5, 9)) == (slice(5, 7), slice(0, 5), slice(6, 9))
    assert needed.box(slice(7, 9)) is None


def test_nothing_is_needed_where_nothing_can_be_disease() -> None:
    needed = Needed.around(spots(), reach=(2, 2, 2))
    assert needed.box() is None
    assert not needed.meets((slice(0, 9), slice(0, 6), slice(0, 11)))


def test_a_box_meets_only_what_lies_in_it() -> None:
    needed = Needed.around(spots((4, 1, 7)), reach=(1, 1, 1))
    assert needed.meets((slice(5, 6), slice(2, 3), slice(8, 9)))
    assert not needed.meets((slice(6, 9), slice(0, 6), slice(0, 11)))
    assert not needed.meets((slice(0, 9), slice(3, 6), slice(0, 11)))
    assert not needed.meets((slice(0, 9), slice(0, 6), slice(0, 6)))
    assert not needed.meets((slice(4, 4), slice(0, 6), slice(0, 11)))


boxes = st.tuples(
    *[
        st.tuples(st.integers(0, size - 1), st.integers(1, size)).map(lambda low: slice(low[0], low[0] + low[1]))
        for size in SHAPE
    ]
)


@settings(max_examples=200, deadline=None)
@given(
    places=st.lists(st.tuples(*[st.integers(0, size - 1) for size in SHAPE]), max_size=4),
    reach=st.tuples(*[st.integers(0, 3)] * 3),
    axes=st.permutations((0, 1, 2)),
    box=boxes,
)
def test_nothing_that_is_needed_is_missed(
    places: list[tuple[int, int, int]], reach: tuple[int, int, int], axes: list[int], box: tuple[slice, slice, slice]
) -> None:
    truth = grown(spots(*places), reach)
    needed = Needed.around(spots(*places), reach=reach)
    if truth[box].any():
        assert needed.meets(box)
        assert needed.within(box).box() is not None
    turned = needed.transposed((axes[0], axes[1], axes[2]))
    along = truth.transpose(axes)
    assert turned.shape == along.shape
    for rows in (slice(0, 3), slice(2, 5)):
        inside = turned.box(rows)
        outside = along.copy()
        if inside is not None:
            outside[inside] = False
        assert not outside[rows].any()
    whole = turned.box()
    if whole is not None:
        places_along = np.argwhere(along)
        # The box around everything is exact: no shadow is wider than what throws it.
        assert whole == tuple(
            slice(int(low), int(high) + 1) for low, high in zip(places_along.min(0), places_along.max(0), strict=True)
        )
