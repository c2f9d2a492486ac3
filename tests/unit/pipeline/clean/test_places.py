"""Places: where samples agree on text, and only there, a frame is masked though its letters are faint."""

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.clean.places import AGREEING, is_near, learn_places, standing
from pipeline.frame import Pixels
from tests.overlays import Line, paint

SHAPE = (576, 720)
SMOOTH: Pixels = np.full((*SHAPE, 3), (190, 110, 92), np.uint8)


def masks_of(*boxes: tuple[int, int, int, int] | None) -> list[NDArray[np.bool_]]:
    masks = []
    for box in boxes:
        mask = np.zeros(SHAPE, np.bool_)
        if box is not None:
            x0, y0, x1, y1 = box
            mask[y0:y1, x0:x1] = True
        masks.append(mask)
    return masks


def test_a_place_is_where_enough_samples_agree() -> None:
    box = (20, 40, 160, 60)
    assert learn_places(masks_of(*[box] * AGREEING), SHAPE)[50, 100] == 1
    assert not learn_places(masks_of(*[box] * (AGREEING - 1)), SHAPE).any()
    assert not learn_places(masks_of(*[box] * AGREEING, *[None] * 13), SHAPE).any()


def test_text_that_wanders_makes_no_place() -> None:
    """Frames of a folder have nothing to do with each other; two that agree by chance tell nothing."""
    rng = np.random.default_rng(0)
    samples = []
    for _ in range(16):
        corners = rng.integers(0, (600, 540), (6, 2))
        boxes = [(int(x), int(y), int(x) + 120, int(y) + 22) for x, y in corners]
        samples.append(np.logical_or.reduce(masks_of(*boxes)))
    assert not learn_places(samples, SHAPE).any()


def test_what_few_have_is_a_place_in_the_columns_of_an_overlay_alone() -> None:
    """A counter is shown now and then, below the rest; a reflection anywhere."""
    often, seldom, reflection = (20, 40, 160, 60), (20, 300, 70, 320), (400, 300, 450, 320)
    samples = [
        *masks_of(*[often] * 9),
        *[np.logical_or.reduce(masks_of(often, seldom, reflection)) for _ in range(2)],
    ]
    places = learn_places(samples, SHAPE)
    assert places[50, 100] > 0
    assert places[310, 40] > 0
    assert places[310, 420] == 0


def test_what_lies_aslant_is_no_place() -> None:
    slanted = np.zeros(SHAPE, np.bool_)
    for step in range(120):
        slanted[100 + step : 108 + step, 100 + step : 108 + step] = True
    assert not learn_places([slanted] * 5, SHAPE).any()


def test_samples_of_nearly_the_size_are_cropped_below_and_on_the_right() -> None:
    mask = np.zeros((578, 700), np.bool_)
    mask[40:60, 20:160] = True
    places = learn_places([mask] * 3, SHAPE)
    assert places.shape == SHAPE
    assert places[50, 100] == 1


@pytest.mark.parametrize(("other", "near"), [((577, 700), True), ((580, 720), False), ((576, 650), False)])
def test_sizes_of_one_processor_are_near(other: tuple[int, int], *, near: bool) -> None:
    assert is_near(SHAPE, other) == near


def test_a_place_is_masked_unless_it_is_plainly_empty() -> None:
    """Text too faint to be found is read all the same; a frame may be cropped on the right."""
    places = np.zeros((576, 720), np.uint8)
    places[295:330, 290:420], places[400:430, 290:420] = 1, 2
    painted = paint(SMOOTH, [Line("12/03/2013", 300, 300, colour=(200, 122, 104))])
    for columns in (720, 700, 740):
        frame = np.pad(painted.pixels, ((0, 0), (0, 20), (0, 0)), "edge")[:, :columns]
        mask = standing(places, frame)
        assert mask.shape == (576, columns)
        assert mask[295:330, 290:420].all()
        assert not mask[400:430].any()
