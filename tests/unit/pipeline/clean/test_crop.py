import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.clean.crop import VIEW_SIDE, crop_view, view_box

contents = st.builds(
    lambda left, top, columns, rows: (left, top, left + columns, top + rows),
    st.integers(0, 300),
    st.integers(0, 300),
    st.integers(8, 1900),
    st.integers(8, 1100),
)


@given(content=contents)
def test_the_view_is_a_square_inside_the_content(content: tuple[int, int, int, int]) -> None:
    """A view of changing aspect, or one that reaches over the border, would tell the border's shape."""
    x0, y0, x1, y1 = view_box(content)
    assert x1 - x0 == y1 - y0 > 0
    assert content[0] <= x0 < x1 <= content[2]
    assert content[1] <= y0 < y1 <= content[3]


@given(content=contents)
def test_the_view_keeps_off_the_top_and_the_bottom(content: tuple[int, int, int, int]) -> None:
    """In a wide frame too: there an octagon is cut, and text stands."""
    x0, y0, x1, y1 = view_box(content)
    margin = (content[3] - content[1]) / 8
    assert y0 - content[1] >= int(margin) - 1
    assert content[3] - y1 >= int(margin) - 1
    assert x0 >= content[0]
    assert x1 <= content[2]


@given(content=contents)
def test_the_view_moves_with_the_content(content: tuple[int, int, int, int]) -> None:
    moved = (content[0] + 7, content[1] + 11, content[2] + 7, content[3] + 11)
    assert np.subtract(view_box(moved), view_box(content)).tolist() == [7, 11, 7, 11]


@given(side=st.integers(60, 1200))
def test_the_view_lies_inside_a_circle(side: int) -> None:
    x0, y0, x1, y1 = view_box((0, 0, side, side))
    corners = np.array([(x0, y0), (x1, y0), (x0, y1), (x1, y1)]) - side / 2
    assert np.hypot(*corners.T).max() <= side / 2 + 1


def test_the_view_leaves_out_the_scope_box_and_the_text_column() -> None:
    """On this layout both stand in the left third; either one in the view tells colitis from normal."""
    x0, _, _, _ = view_box((0, 0, 633, 532))
    assert x0 >= 633 / 3


def test_a_flat_frame_gives_a_flat_view_of_the_models_size() -> None:
    view = crop_view(np.full((532, 633, 3), 77, np.uint8), (0, 0, 633, 532))
    assert view.shape == (VIEW_SIDE, VIEW_SIDE, 3)
    assert view.dtype == np.uint8
    assert (view == 77).all()


def test_the_view_shows_what_its_box_says() -> None:
    content = (10, 20, 610, 520)
    frame = np.zeros((540, 640, 3), np.uint8)
    x0, y0, x1, y1 = view_box(content)
    frame[y0:y1, x0:x1] = 255
    assert (crop_view(frame, content) == 255).all()
