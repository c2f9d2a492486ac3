import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.clean.content_area import find_content_area
from pipeline.frame import Box
from tests.unit.pipeline.conftest import Mucosa, Outline

SIZES = [(576, 720), (532, 633), (256, 256), (1080, 1920)]


def box_of(mask: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> Box:
    rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@pytest.mark.parametrize("shape", ["rectangle", "octagon", "circle"])
@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_every_border_is_found_within_the_working_scale(
    mucosa: Mucosa, outline: Outline, shape: str, rows: int, columns: int
) -> None:
    """A view cut from a wrong rectangle shows the network black corners, which tell the processor."""
    inside = outline(shape, rows, columns)
    frame = mucosa(rows, columns, 1) * inside[..., np.newaxis]
    area = find_content_area(frame)
    assert area is not None
    tolerance = 2 * rows / 288 + 1
    assert np.abs(np.subtract(area.box, box_of(inside))).max() <= tolerance
    assert (area.mask ^ inside).mean() < 0.02


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows=st.integers(40, 700), columns=st.integers(40, 900), seed=st.integers(0, 1000))
def test_a_frame_without_a_border_comes_back_whole(
    mucosa: Mucosa, rows: int, columns: int, seed: int
) -> None:
    area = find_content_area(mucosa(rows, columns, seed))
    assert area is not None
    assert area.box == (0, 0, columns, rows)
    assert area.mask.all()


@pytest.mark.parametrize("colour", [(0, 0, 0), (0, 160, 135)], ids=["black", "teal"])
def test_the_scope_position_box_neither_moves_the_border_nor_counts_as_tissue(
    mucosa: Mucosa, outline: Outline, colour: tuple[int, int, int]
) -> None:
    inside = outline("octagon", 576, 720)
    frame = mucosa(576, 720, 2) * inside[..., np.newaxis]
    plain = find_content_area(frame)
    frame[400:576, 0:230] = colour
    boxed = find_content_area(frame)
    assert plain is not None
    assert boxed is not None
    assert np.abs(np.subtract(plain.box, boxed.box)).max() <= 4
    assert boxed.mask[440:540, 60:200].mean() < 0.02


def test_text_on_the_border_does_not_move_it(mucosa: Mucosa) -> None:
    """Overlay text stands on the black beside the image; taken for tissue, it would widen the view."""
    inside = np.zeros((576, 720), np.bool_)
    inside[60:540, 200:690] = True
    frame = mucosa(576, 720, 3) * inside[..., np.newaxis]
    plain = find_content_area(frame)
    for row in range(80, 500, 40):
        cv2.putText(frame, "12/03/2013", (10, row), cv2.FONT_HERSHEY_SIMPLEX, 0.9, (255, 255, 255), 2)
    lettered = find_content_area(frame)
    assert plain is not None
    assert lettered is not None
    assert lettered.box == plain.box


@pytest.mark.parametrize(
    ("image", "edge"),
    [(np.s_[:, 100:620], np.s_[-3:]), (np.s_[60:500], np.s_[:, :3])],
    ids=["bottom", "left"],
)
def test_a_bright_line_along_the_frames_edge_does_not_move_it(
    mucosa: Mucosa, image: tuple[slice, ...], edge: tuple[slice, ...]
) -> None:
    """Frame grabbers leave such lines, and they touch an image that reaches the edge."""
    inside = np.zeros((576, 720), np.bool_)
    inside[image] = True
    frame = mucosa(576, 720, 5) * inside[..., np.newaxis]
    plain = find_content_area(frame)
    frame[edge] = 230
    lined = find_content_area(frame)
    assert plain is not None
    assert lined is not None
    assert lined.box == plain.box


@pytest.mark.parametrize("level", [0, 12])
def test_a_dark_frame_has_no_content(level: int) -> None:
    assert find_content_area(np.full((480, 640, 3), level, np.uint8)) is None


def test_a_few_lit_pixels_are_no_content() -> None:
    frame = np.zeros((480, 640, 3), np.uint8)
    frame[10:40, 10:300] = 255
    assert find_content_area(frame) is None


def test_the_mask_is_read_only(mucosa: Mucosa) -> None:
    area = find_content_area(mucosa(100, 120, 4))
    assert area is not None
    assert not area.mask.flags.writeable
