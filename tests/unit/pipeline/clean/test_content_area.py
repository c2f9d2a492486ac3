import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.clean.content_area import ContentArea, find_content_area, still_holds
from pipeline.frame import Box, Pixels
from tests.unit.pipeline.conftest import Mucosa, Outline

SIZES = [(576, 720), (532, 633), (256, 256), (1080, 1920)]


def box_of(mask: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> Box:
    rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@pytest.mark.parametrize("shape", ["rectangle", "octagon", "circle"])
@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_every_border_is_found_and_named(
    mucosa: Mucosa, outline: Outline, shape: str, rows: int, columns: int
) -> None:
    """A view cut from a wrong rectangle shows the network black corners, which tell the processor."""
    inside = outline(shape, rows, columns)
    frame = mucosa(rows, columns, 1) * inside[..., np.newaxis]
    area = find_content_area(frame)
    assert area is not None
    tolerance = rows / 288 + 1
    assert np.abs(np.subtract(area.box, box_of(inside))).max() <= tolerance
    assert (area.mask ^ inside).mean() < 0.005
    assert area.shape == shape


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows=st.integers(40, 700), columns=st.integers(40, 900), seed=st.integers(0, 1000))
def test_a_frame_without_a_border_comes_back_whole(
    mucosa: Mucosa, rows: int, columns: int, seed: int
) -> None:
    area = find_content_area(mucosa(rows, columns, seed))
    assert area is not None
    assert area.box == (0, 0, columns, rows)
    assert area.mask.all()
    assert area.shape == "full"


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
    assert not boxed.mask[400:576, 0:230].any()
    assert plain.scope_box is None
    assert boxed.scope_box is not None
    assert np.abs(np.subtract(boxed.scope_box, (0, 400, 230, 576))).max() <= 2


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


def test_a_frames_area_holds_on_that_frame_and_the_next(mucosa: Mucosa, outline: Outline) -> None:
    """Verification that refuses the layout's own frames would save nothing."""
    for shape in ("rectangle", "octagon", "circle", "full"):
        inside = outline(shape, 576, 720)[..., np.newaxis]
        area = find_content_area(mucosa(576, 720, 6) * inside)
        assert area is not None
        later = mucosa(576, 720, 7) * inside
        cv2.putText(later, "14:22:07", (10, 300), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (255, 255, 255), 2)
        assert still_holds(area, later)


@pytest.mark.parametrize("change", ["narrower", "wider", "lower", "rounder", "boxed", "dark", "resized"])
def test_an_area_no_longer_holds_once_the_layout_has_changed(
    mucosa: Mucosa, outline: Outline, change: str
) -> None:
    """One frame cleaned with the outline of another processor keeps a border, or loses tissue."""
    inside = outline("octagon", 576, 720)
    area = find_content_area(mucosa(576, 720, 8) * inside[..., np.newaxis])
    assert area is not None
    frame = mucosa(576, 720, 9)
    changed = {
        "narrower": inside & (np.arange(720) > 70),
        "wider": inside | (np.arange(720) < 200),
        "lower": np.roll(inside, 15, axis=0),
        "rounder": outline("circle", 576, 720),
        "boxed": inside & ~((np.arange(720) < 230) & (np.arange(576) > 400)[:, np.newaxis]),
        "dark": np.zeros_like(inside),
        "resized": inside,
    }
    later = frame * changed[change][..., np.newaxis]
    assert not still_holds(area, later[:570] if change == "resized" else later)


def test_an_area_with_a_scope_box_holds_only_while_the_box_is_there(mucosa: Mucosa, outline: Outline) -> None:
    """A box that comes or goes uncovers or hides a tenth of the image."""
    inside = outline("octagon", 576, 720)[..., np.newaxis]

    def frame(seed: int, *, right: int) -> Pixels:
        pixels: Pixels = mucosa(576, 720, seed) * inside
        pixels[400:, :right] = 0
        return pixels

    area: ContentArea | None = find_content_area(frame(10, right=230))
    assert area is not None
    assert still_holds(area, frame(11, right=230))
    assert not still_holds(area, frame(11, right=0))
    assert not still_holds(area, frame(11, right=150))
    assert not still_holds(area, frame(11, right=330))


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 300), columns=st.integers(1, 300), cells=st.integers(1, 9), seed=st.integers(0, 99)
)
def test_any_picture_gives_an_area_within_itself_or_none(
    rows: int, columns: int, cells: int, seed: int
) -> None:
    """A thumbnail, a test card or a chart among an exam's frames must not stop it."""
    random = np.random.default_rng(seed)
    card = random.integers(0, 256, (cells, cells, 3)).astype(np.uint8) * (
        random.random((cells, cells, 1)) > 0.3
    )
    area = find_content_area(cv2.resize(card, (columns, rows), interpolation=cv2.INTER_NEAREST))  # type: ignore[arg-type]
    if area is None:
        return
    x0, y0, x1, y1 = area.box
    assert 0 <= x0 < x1 <= columns
    assert 0 <= y0 < y1 <= rows
    outside = area.mask.copy()
    outside[y0:y1, x0:x1] = False
    assert area.mask.shape == (rows, columns)
    assert not outside.any()
