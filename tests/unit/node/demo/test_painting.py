import cv2
import numpy as np
import pytest

from node.demo.painting import paint_frame
from pipeline.frame import Pixels


def paint(
    seed: int = 3, *, ulcers: bool = False, instrument: bool = False, text: str | None = None
) -> Pixels:
    return paint_frame(seed, ulcers=ulcers, instrument=instrument, text=text, rows=288, columns=360)


def redness(pixels: Pixels) -> float:
    field = pixels[60:228, 80:280].astype(float)
    return float(field[..., 0].mean() / field[..., 1].mean())


def grey_pixels(pixels: Pixels) -> int:
    field = pixels[150:].astype(int)
    return int(((field.max(2) - field.min(2) < 20) & (field.min(2) > 60)).sum())


@pytest.mark.parametrize(("rows", "columns"), [(576, 720), (301, 257), (1080, 1350)])
def test_a_frame_has_the_size_asked_for(rows: int, columns: int) -> None:
    frame = paint_frame(1, ulcers=True, instrument=True, text="DEMO", rows=rows, columns=columns)
    assert frame.shape == (rows, columns, 3)
    assert frame.dtype == np.uint8


def test_the_same_seed_paints_the_same_frame_and_another_seed_another() -> None:
    """Tests that send a study twice rely on it: the pixels must be equal."""
    assert np.array_equal(paint(3), paint(3))
    assert not np.array_equal(paint(3), paint(4))


@pytest.mark.parametrize("seed", range(5))
def test_a_frame_is_mostly_red_tissue_behind_dark_corners(seed: int) -> None:
    """Colour order is what decoders get wrong: red above green above blue must hold."""
    frame = paint(seed)
    red, green, blue = frame[60:228, 80:280].reshape(-1, 3).mean(0)
    assert red > green > blue
    assert all(frame[row, column].max() < 10 for row, column in ((0, 0), (0, 359), (287, 0), (287, 359)))


@pytest.mark.parametrize("seed", range(5))
def test_ulcers_redden_the_mucosa(seed: int) -> None:
    assert redness(paint(seed, ulcers=True)) > 1.1 * redness(paint(seed))


def test_an_instrument_and_a_text_change_the_frame_where_they_are() -> None:
    plain = paint()
    changed = np.abs(paint(text="DEMO 00:12").astype(int) - plain).max(2) > 0
    assert changed.any()
    assert not changed[40:].any()
    assert grey_pixels(paint(instrument=True)) > grey_pixels(plain) + 1000


@pytest.mark.parametrize("seed", range(5))
def test_a_frame_is_sharp_enough_to_be_read(seed: int) -> None:
    """A painted frame that the cleaning rejected as blurred would show nothing in the demo."""
    frame = paint_frame(seed, ulcers=bool(seed % 2), instrument=False, text=None)
    assert cv2.Laplacian(frame[..., 1], cv2.CV_64F).var() > 150
