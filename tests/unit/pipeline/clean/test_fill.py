import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.clean.fill import RADIUS, REACH, Inpainter, fill, navier_stokes, telea
from pipeline.frame import Pixels
from tests.unit.pipeline.conftest import Mucosa

EVERYWHERE = np.ones((120, 160), np.bool_)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    left=st.integers(0, 159), top=st.integers(0, 119), columns=st.integers(1, 90), rows=st.integers(1, 60),
    content_from=st.integers(0, 100), seed=st.integers(0, 99),
)  # fmt: skip
def test_only_pixels_of_the_hole_change(
    mucosa: Mucosa, left: int, top: int, columns: int, rows: int, content_from: int, seed: int
) -> None:
    """What is outside the mask is evidence; one changed pixel of it would be invented tissue."""
    frame = mucosa(120, 160, seed)
    frame.setflags(write=False)
    mask, content = np.zeros((120, 160), np.bool_), EVERYWHERE.copy()
    mask[top : top + rows, left : left + columns] = True
    content[:, :content_from] = False
    filled, hole = fill(frame, mask, content)
    assert (filled[~hole] == frame[~hole]).all()
    assert not (hole & ~mask).any()
    assert filled.shape == frame.shape
    assert filled.dtype == np.uint8


def test_text_is_gone_from_the_middle_of_flat_tissue() -> None:
    frame = np.full((120, 160, 3), (190, 100, 80), np.uint8)
    mask = np.zeros((120, 160), np.bool_)
    mask[50:66, 40:101] = True
    frame[52:64, 44:97] = 255
    filled, hole = fill(frame, mask, EVERYWHERE)
    assert (hole == mask).all()
    assert np.abs(filled[mask].astype(int) - (190, 100, 80)).max() <= 2


@pytest.mark.parametrize("rows", [14, 120])
def test_black_of_the_border_does_not_flow_into_the_tissue(rows: int) -> None:
    """A dark smear beside the border would keep the border's place readable in the filled pixels."""
    frame = np.full((200, 260, 3), (190, 100, 80), np.uint8)
    content = np.ones((200, 260), np.bool_)
    content[:, :160] = False
    frame[:, :160] = 4
    mask = np.zeros((200, 260), np.bool_)
    mask[20 : 20 + rows, 140 : 190 + rows // 3] = True
    frame[22 : 18 + rows, 145:185] = 255
    filled, hole = fill(frame, mask, content)
    assert (hole == mask).all()
    assert filled[hole & content][:, 0].min() >= 170
    assert (filled[mask & ~content] == 4).all(), (
        "text on the border is gone too, and takes nothing of the tissue"
    )


@pytest.mark.parametrize("inpainter", [telea, navier_stokes])
@pytest.mark.parametrize(
    "colour", [(240, 240, 240), (90, 255, 90), (0, 0, 0)], ids=["white", "green", "black"]
)
def test_an_icon_beside_the_hole_does_not_flow_into_the_tissue(
    inpainter: Inpainter, colour: tuple[int, int, int]
) -> None:
    """Letters gone and a bright smear in their place: the model would read the processor, not the colon."""
    frame = np.full((120, 160, 3), (190, 100, 80), np.uint8)
    mask = np.zeros((120, 160), np.bool_)
    mask[50:66, 40:101] = True
    frame[50:66, 104:116] = colour
    frame[30:48, 60:72] = colour
    filled, _ = fill(frame, mask, EVERYWHERE, inpainter=inpainter)
    assert np.abs(filled[mask].astype(int) - (190, 100, 80)).max() <= 2
    assert (filled[~mask] == frame[~mask]).all()


def test_text_on_a_wide_black_is_filled_black_though_tissue_is_near() -> None:
    """Where the border is not known, as at the gate, bars of tissue on black would be taken for text."""
    frame = np.full((120, 160, 3), (190, 100, 80), np.uint8)
    frame[:, :100] = 4
    mask = np.zeros((120, 160), np.bool_)
    mask[50:66, 20:86] = True
    frame[52:64, 24:82] = 255
    filled, _ = fill(frame, mask, EVERYWHERE)
    assert filled[mask].max() <= 6


def test_a_hole_in_nothing_but_glare_is_filled_with_glare() -> None:
    """Where all that is left is unlike tissue, that is what there is to fill from."""
    frame = np.full((24, 32, 3), 200, np.uint8)
    mask = np.zeros((24, 32), np.bool_)
    mask[8:16, 8:24] = True
    frame[mask] = 0
    filled, hole = fill(frame, mask, np.ones_like(mask))
    assert (hole == mask).all()
    assert np.abs(filled.astype(int) - 200).max() <= 2


def test_without_a_hole_the_frame_itself_comes_back(mucosa: Mucosa) -> None:
    frame = mucosa(120, 160, 1)
    filled, hole = fill(frame, ~EVERYWHERE, EVERYWHERE)
    assert filled is frame
    assert not hole.any()


def test_a_hole_that_leaves_no_content_is_not_filled(mucosa: Mucosa) -> None:
    """There is nothing to fill it from."""
    frame = mucosa(120, 160, 1)
    filled, hole = fill(frame, EVERYWHERE, EVERYWHERE)
    assert filled is frame
    assert not hole.any()


def test_a_filled_frame_filled_again_keeps_its_outside(mucosa: Mucosa) -> None:
    frame = mucosa(120, 160, 5)
    mask = np.zeros((120, 160), np.bool_)
    mask[20:40, 30:90] = True
    once, _ = fill(frame, mask, EVERYWHERE)
    twice, _ = fill(once, mask, EVERYWHERE)
    assert (twice[~mask] == frame[~mask]).all()
    assert np.abs(twice.astype(int) - once).max() <= 8


@settings(max_examples=40, deadline=None)
@given(
    top=st.integers(0, 400), left=st.integers(0, 500),
    rows=st.integers(1, 400), columns=st.integers(1, 400), edge=st.integers(0, 600),
)  # fmt: skip
def test_the_border_is_no_source_as_far_round_a_hole_as_the_hole_is_deep(
    top: int, left: int, rows: int, columns: int, edge: int
) -> None:
    """How deep it is is looked up near it alone, to save time: the whole frame must say the same."""
    told: list[NDArray[np.bool_]] = []

    def listen(pixels: Pixels, unknown: NDArray[np.bool_]) -> Pixels:
        told.append(unknown)
        return pixels

    content = np.ones((480, 640), np.bool_)
    content[:, :edge] = False
    mask = np.zeros_like(content)
    mask[top : top + rows, left : left + columns] = True
    fill(np.zeros((480, 640, 3), np.uint8), mask, content, inpainter=listen)
    hole = mask & content
    if not hole.any() or not (content & ~hole).any():
        assert not told
        return
    depth = cv2.distanceTransform((hole | ~content).astype(np.uint8), cv2.DIST_L2, 3)[hole].max()
    reach = max(REACH, int(depth) + 2 * RADIUS)
    near = cv2.dilate(hole.astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)) > 0
    assert (told[0] == (hole | (near & ~content))).all()
