import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from node.results.overlay import colour_map, fit, overlay
from tests.unit.node.results.conftest import make_panel


@given(rows=st.integers(1, 300), columns=st.integers(1, 300))
def test_a_fitted_frame_keeps_its_aspect_ratio(rows: int, columns: int) -> None:
    """A stretched lesion is a lesion misread."""
    fitted = fit(np.zeros((rows, columns, 3), dtype=np.uint8), 120, 100)
    scale = min(120 / rows, 100 / columns)
    assert abs(fitted.shape[0] - rows * scale) <= 1
    assert abs(fitted.shape[1] - columns * scale) <= 1
    assert fitted.shape[0] <= 120
    assert fitted.shape[1] <= 100


def test_a_frame_of_the_right_size_is_not_touched() -> None:
    """What a person sees are the original pixels wherever nothing has to be scaled."""
    pixels = np.random.default_rng(0).integers(0, 256, (100, 80, 3), dtype=np.uint8)
    assert np.array_equal(fit(pixels, 100, 300), pixels)


def test_pixels_outside_the_view_are_those_of_the_plain_frame() -> None:
    """The model said nothing of what it did not see."""
    panel = make_panel(4)
    shown = overlay(panel, panel.pixels)
    outside = np.ones(panel.pixels.shape[:2], dtype=bool)
    x0, y0, x1, y1 = panel.view_box
    outside[y0:y1, x0:x1] = False
    assert np.array_equal(shown[outside], panel.pixels[outside])
    assert not np.array_equal(shown[~outside], panel.pixels[~outside])


def test_only_what_speaks_for_the_class_is_tinted() -> None:
    """A map without a positive value has nothing to show."""
    panel = make_panel(5, cam=np.full((7, 7), -1, dtype=np.float32))
    x0, y0, x1, y1 = panel.view_box
    inside = (slice(y0 + 1, y1 - 1), slice(x0 + 1, x1 - 1))
    assert np.array_equal(overlay(panel, panel.pixels)[inside], panel.pixels[inside])


def test_the_strongest_activation_lies_where_the_map_has_it() -> None:
    """A map transposed or mirrored would point the reader at the wrong tissue."""
    cam = np.zeros((7, 7), dtype=np.float32)
    cam[1, 5] = 1
    panel = make_panel(pixels=np.zeros((140, 210, 3), dtype=np.uint8), cam=cam, view_box=(70, 0, 210, 140))
    shown = overlay(panel, panel.pixels).astype(int)
    inside = shown[2:-2, 72:-2].sum(axis=2)
    row, column = np.unravel_index(int(inside.argmax()), inside.shape)
    assert abs(row + 2 - 30) <= 5
    assert abs(column + 72 - 180) <= 5


def test_the_colour_map_grows_lighter_all_along() -> None:
    """A scale whose lightness goes up and down invents borders that are not there."""
    lightness = colour_map().astype(float) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) > -0.5).all()
    assert lightness[-1] - lightness[0] > 150
