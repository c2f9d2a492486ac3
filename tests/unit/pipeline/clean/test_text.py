import numpy as np

from pipeline.clean.text import Quad, text_mask


def box(x: float, y: float, columns: float, rows: float) -> Quad:
    return np.array([(x, y), (x + columns, y), (x + columns, y + rows), (x, y + rows)], np.float32)


def test_a_line_of_text_is_masked_with_a_narrow_rim() -> None:
    mask = text_mask([box(100, 50, 120, 20)], rows=576, columns=720)
    assert mask[50:70, 100:220].all()
    rows, columns = np.nonzero(mask)
    assert (rows.min(), columns.min()) >= (46, 96)
    assert (rows.max(), columns.max()) <= (74, 224)


def test_boxes_of_no_texts_size_are_left_out() -> None:
    """The detector boxes text-free frames whole: a box alone must not have mucosa painted over."""
    field_of_view, dot, point = box(60, 30, 600, 520), box(300, 300, 4, 4), box(10, 10, 0, 0)
    assert not text_mask([field_of_view, dot, point], rows=576, columns=720).any()


def test_a_box_over_the_frames_edge_is_masked_where_it_is_inside() -> None:
    mask = text_mask([box(-30, 560, 100, 30)], rows=576, columns=720)
    assert mask[565:, :60].all()
    assert mask.shape == (576, 720)


def test_no_boxes_mask_nothing() -> None:
    assert not text_mask([], rows=10, columns=10).any()
