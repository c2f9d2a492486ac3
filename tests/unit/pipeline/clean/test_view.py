import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.clean.view import CASING, OUTLINE, outline_synthetic, synthetic_share
from tests.unit.pipeline.conftest import Mucosa

VIEW = (40, 10, 110, 80)

cams = arrays(np.float32, (7, 7), elements=st.floats(-4, 4, width=32))
masks = arrays(np.bool_, (90, 120))


@given(cams, masks)
def test_what_is_not_on_filled_pixels_is_on_the_others(cam: np.ndarray, mask: np.ndarray) -> None:
    """A share of the mass: the two together are all of it, neither is less than none."""
    share, rest = synthetic_share(cam, mask, VIEW), synthetic_share(cam, ~mask, VIEW)
    assert 0 <= share <= 1
    assert share + rest == pytest.approx(1, abs=1e-5)


@given(cams, masks, st.floats(0.25, 8, width=32))
def test_the_share_depends_on_no_scale_and_on_nothing_that_speaks_against(
    cam: np.ndarray, mask: np.ndarray, gain: float
) -> None:
    positive = np.maximum(cam, 0)
    assert synthetic_share(cam, mask, VIEW) == pytest.approx(synthetic_share(positive, mask, VIEW), abs=1e-6)
    assert synthetic_share(cam * np.float32(gain), mask, VIEW) == pytest.approx(
        synthetic_share(cam, mask, VIEW), abs=1e-4
    )


def test_only_the_cells_that_are_filled_count() -> None:
    """Row and column must not be mixed up, nor the view's place in the frame."""
    cam = np.zeros((7, 14), np.float32)
    cam[1, 10:12], cam[4, 2] = 1.5, 1
    filled = np.zeros((90, 120), np.bool_)
    filled[20:30, 90:100] = True  # exactly cells (1, 10) and (1, 11) of the view
    assert synthetic_share(cam, filled, VIEW) == pytest.approx(0.75)
    half = filled.copy()
    half[25:30] = False
    assert synthetic_share(cam, half, VIEW) == pytest.approx(0.375)
    outside = np.zeros((90, 120), np.bool_)
    outside[:, :40] = outside[:10] = True
    assert synthetic_share(cam, outside, VIEW) == 0


def test_where_nothing_speaks_for_the_class_the_whole_view_counts() -> None:
    filled = np.zeros((90, 120), np.bool_)
    filled[10:80, 40:75] = True
    assert synthetic_share(np.full((7, 7), -1, np.float32), filled, VIEW) == pytest.approx(0.5)


@pytest.mark.parametrize(("rows", "columns"), [(120, 160), (576, 720), (40, 30)])
def test_filled_places_are_outlined_and_labelled(mucosa: Mucosa, rows: int, columns: int) -> None:
    """Whoever looks at a cleaned frame must see what of it never was there."""
    frame = mucosa(rows, columns, 2)
    frame.setflags(write=False)
    filled = np.zeros((rows, columns), np.bool_)
    filled[rows // 2 : rows // 2 + rows // 6, columns // 3 : columns // 2] = True
    shown = outline_synthetic(frame, filled)
    changed = (shown != frame).any(axis=2)
    assert (shown == OUTLINE).all(axis=2).any()
    assert (shown == CASING).all(axis=2).any()
    below = slice(rows // 2 + 1, None)
    assert not (changed & filled)[below].any()
    far = np.ones((rows, columns), np.bool_)
    far[: rows // 2 + rows // 6 + 12] = False
    assert not (changed & far).any()
    around = np.zeros((rows, columns), np.bool_)
    around[rows // 2 + 2 : rows // 2 + rows // 6 - 2, columns // 2] = True
    assert (shown[around] == OUTLINE).all()


def test_a_frame_of_which_nothing_is_filled_is_shown_as_it_is(mucosa: Mucosa) -> None:
    frame = mucosa(120, 160, 1)
    assert outline_synthetic(frame, np.zeros((120, 160), np.bool_)) is frame


@given(masks)
def test_any_mask_can_be_outlined(mask: np.ndarray) -> None:
    """Specks, stripes and what touches the frame's edge among them."""
    frame = np.full((90, 120, 3), 120, np.uint8)
    shown = outline_synthetic(frame, mask)
    assert shown.shape == frame.shape
    assert (frame == 120).all()
