"""Composites: what is called an instrument in the mask is what was painted, and testing is not training."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("simplejpeg")

from models.training.composites import BLENDS, LEAST_SHARE, compose, decoy, place
from models.training.materials import MATERIALS, surface
from models.training.scenery import PARTS, Scene, Shape, group_alike, part_of

ROWS, COLUMNS = 96, 112


def scene(*, level: int = 120) -> Scene:
    """Return reddish mucosa within an octagon."""
    pixels = np.zeros((ROWS, COLUMNS, 3), np.uint8)
    y, x = np.mgrid[:ROWS, :COLUMNS]
    content = np.abs(y - ROWS / 2) + np.abs(x - COLUMNS / 2) < 0.7 * ROWS
    pixels[content] = (level, level // 2, level // 3)
    return Scene("scene", "train", pixels, content)


def tube() -> Shape:
    mask = np.zeros((ROWS, COLUMNS), np.bool_)
    mask[40:, 50:64] = True
    return Shape("tube", "train", mask)


@given(st.integers(0, 2**32))
def test_no_instrument_is_painted_outside_the_content(seed: int) -> None:
    """Processors draw the border after the camera: a tool over it would teach that borders are tools."""
    given_scene = scene()
    opacity = place(tube(), given_scene.content, np.random.default_rng(seed))
    assert opacity.shape == (ROWS, COLUMNS)
    assert not opacity[~given_scene.content].any()
    assert (opacity.min(), opacity.max()) >= (0, 0)
    assert opacity.max() <= 1


@pytest.mark.parametrize("family", ["train", "test"])
def test_a_composite_is_a_function_of_its_seed(family: str) -> None:
    """A package that cannot be made again cannot be doubted."""
    for seed in range(20):
        one, again, without = (
            compose(scene(), shape, "test" if family == "test" else "train", np.random.default_rng(seed))
            for shape in (tube(), tube(), None)
        )
        np.testing.assert_array_equal(one[0], again[0])
        np.testing.assert_array_equal(one[1], again[1])
        assert one[0].shape == (ROWS, COLUMNS, 3)
        assert one[0].dtype == np.uint8
        assert one[1].dtype == np.bool_
        assert not without[1].any()


def test_most_composites_show_the_instrument() -> None:
    shares = [compose(scene(), tube(), "train", np.random.default_rng(seed))[1].mean() for seed in range(60)]
    assert np.mean(np.array(shares) >= LEAST_SHARE) > 0.85


def test_pasted_mucosa_changes_the_frame_and_is_no_instrument() -> None:
    """Without it a network learns the seam of the pasting, which no real instrument has."""
    pasted = decoy(scene(), scene(level=200), tube(), np.random.default_rng(1))
    assert (pasted.pixels != scene().pixels).any()
    assert not compose(pasted, None, "train", np.random.default_rng(1))[1].any()


def test_textures_and_blending_of_the_test_are_not_in_training() -> None:
    for families in (MATERIALS, BLENDS):
        assert not set(families["train"]) & set(families["test"])


def test_a_surface_is_measured_along_and_across_its_own_axis() -> None:
    """Streaks must run along a tool and not across it, whichever way it lies."""
    along, across = surface(tube().mask)
    assert np.ptp(along[40:, 57]) == pytest.approx(1, abs=0.05)
    assert np.ptp(along[60, 50:64]) < 0.05
    assert np.ptp(across[60, 50:64]) == pytest.approx(2, abs=0.1)


def test_groups_hold_whatever_is_linked_by_steps() -> None:
    """Frame a is like b and b like c: all three must land in one part."""
    alike = np.eye(5, dtype=np.bool_)
    for one, other in ((0, 3), (3, 4), (1, 2)):
        alike[one, other] = alike[other, one] = True
    assert group_alike(alike, ["a", "b", "c", "d", "e"]) == ["a", "b", "b", "a", "a"]


def test_the_parts_are_of_the_sizes_they_claim() -> None:
    parts = [part_of(f"group {number}") for number in range(3000)]
    shares = np.diff([0, *(end for _, end in PARTS)])
    for (part, _), share in zip(PARTS, shares, strict=True):
        assert parts.count(part) / len(parts) == pytest.approx(share, abs=0.03)
