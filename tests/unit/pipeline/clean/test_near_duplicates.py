import csv
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.clean.content_area import find_content_area
from pipeline.clean.crop import crop_view
from pipeline.clean.near_duplicates import Fingerprint, duplicate_groups, fingerprint
from pipeline.frame import Pixels
from tests.unit.pipeline.conftest import Mucosa


def shifted(view: Pixels, pixels: int) -> Pixels:
    return np.roll(view, pixels, axis=1)


def scene(number: int, copy: int) -> Fingerprint:
    """Return one of the fingerprints of a scene; each copy differs a little from the one before."""
    made = np.random.default_rng(number).integers(0, 256, 64).astype(np.uint8)
    made[: 4 * copy] ^= 0xFF
    return made


def test_a_frame_seen_again_a_moment_later_is_a_duplicate(mucosa: Mucosa) -> None:
    """A resting endoscope gives a hundred frames of one fold: they are one piece of evidence."""
    view = mucosa(224, 224, 1)
    later = np.clip(shifted(view, 1).astype(np.int16) + 4, 0, 255).astype(np.uint8)
    assert duplicate_groups([fingerprint(view), fingerprint(later)]) == [0, 0]


def test_other_tissue_of_the_same_colour_is_none(mucosa: Mucosa) -> None:
    """Mucosa is everywhere of much the same colour: structure decides."""
    prints = [fingerprint(mucosa(224, 224, seed)) for seed in range(12)]
    assert duplicate_groups(prints) == list(range(12))


def test_the_same_structure_in_another_colour_is_none(mucosa: Mucosa) -> None:
    """Inflamed and healthy mucosa must not share a vote because a fold lies alike."""
    view = mucosa(224, 224, 2)
    stained = (view * np.array((0.6, 0.9, 1.2))).clip(0, 255).astype(np.uint8)
    assert duplicate_groups([fingerprint(view), fingerprint(stained)]) == [0, 1]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=12), st.randoms())
def test_groups_do_not_depend_on_the_order_of_the_frames(
    views: list[tuple[int, int]], random: object
) -> None:
    """Frames arrive in any order; who votes with whom must not change with it."""
    order = list(range(len(views)))
    random.shuffle(order)  # type: ignore[attr-defined]
    prints = [scene(*view) for view in views]
    straight = duplicate_groups(prints)
    turned = duplicate_groups([prints[index] for index in order])
    back = {index: turned[place] for place, index in enumerate(order)}
    for one, other in combinations(range(len(views)), 2):
        assert (straight[one] == straight[other]) == (back[one] == back[other])
    assert all(straight[first] == first <= index for index, first in enumerate(straight))


def test_a_chain_of_near_frames_is_one_group_wherever_its_ends_stand() -> None:
    """A slow withdrawal joins frames of which the first and the last are unlike."""
    ends_first = [scene(7, copy) for copy in (0, 3, 1, 2)]
    assert duplicate_groups([ends_first[0], ends_first[1]]) == [0, 1]
    assert duplicate_groups(ends_first) == [0, 0, 0, 0]


def test_no_frames_have_no_groups() -> None:
    assert duplicate_groups([]) == []


@pytest.mark.data
def test_frames_put_together_belong_together_on_frames_never_tuned_on(data_dir: Path) -> None:
    """A wrong merge takes a vote away from a patient; a missed one only leaves two."""
    with (data_dir / "pseudo_patients.csv").open(encoding="utf-8") as lines:
        rows = [row for row in csv.DictReader(lines) if row["cv_fold"] == "3"]
    prints = []
    for row in rows:
        pixels = np.array(Image.open(data_dir / row["path"]).convert("RGB"))
        area = find_content_area(pixels)
        assert area is not None
        prints.append(fingerprint(crop_view(pixels, area.box)))
    groups = duplicate_groups(prints)
    together = [
        rows[one]["near_duplicate_group"] == rows[other]["near_duplicate_group"]
        for one, other in combinations(range(len(rows)), 2)
        if groups[one] == groups[other]
    ]
    assert len(together) >= 20
    assert np.mean(together) >= 0.95
