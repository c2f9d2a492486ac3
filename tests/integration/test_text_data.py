"""Overlay text on real frames: found, not taken for tissue, and confirmed cheaply where it stands still."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.adapters.rapid_text import RapidText
from pipeline.clean.content_area import find_content_area
from pipeline.clean.fill import fill
from pipeline.clean.known_text import KnownText, confirms, learn_text
from pipeline.clean.overlay import find_text
from pipeline.frame import Pixels
from tests.overlays import Line, Painted, paint, random_lines, without_text

pytestmark = pytest.mark.data

FOLDERS = ("normal/bbps-2-3", "normal/normal-cecum", "other/bbps-0-1", "other/impacted-stool", "other/polyp")
STANDING = [
    Line("ID: 4471208", 20, 30, size=14), Line("Mira Ostrovan", 20, 60, size=14),
    Line("Sex: F", 20, 90, size=14), Line("12/03/2013", 60, 250, "bitmap", 11), Line("SCV: 30", 600, 540),
]  # fmt: skip
"""The overlay of an exam; its clock stands below the date."""


@pytest.fixture(scope="module")
def detector() -> RapidText:
    cv2.setNumThreads(1)
    return RapidText(threads=2)


def read(path: Path) -> Pixels:
    return np.asarray(cv2.imread(str(path), cv2.IMREAD_COLOR_RGB), np.uint8)


def text_free(data_dir: Path, count: int | None) -> Iterator[Pixels]:
    """Yield real tissue of 720x576 without text, evenly over the folders; all of it without a count."""
    paths = [path for folder in FOLDERS for path in sorted((data_dir / "images" / folder).glob("*.jpg"))]
    for path in paths[:: len(paths) // count if count else 1]:
        frame = without_text(read(path))
        if frame.shape == (576, 720, 3):
            yield frame


def masked(detector: RapidText, pixels: Pixels) -> NDArray[np.bool_]:
    return find_text(detector, pixels)


def quality_of(rng: np.random.Generator) -> int | None:
    """Return a JPEG quality for one frame in two."""
    return int(rng.integers(85, 97)) if rng.integers(2) else None


def test_painted_text_is_found_and_tissue_is_left_alone(
    data_dir: Path, detector: RapidText, request: pytest.FixtureRequest
) -> None:
    """What is missed stays in the model's view; what is masked beyond text is tissue that nobody reads."""
    rng = np.random.default_rng(20)
    letters = found = far = tissue = 0
    free = []
    for frame in text_free(data_dir, None if request.config.getoption("--full") else 16):
        painted = paint(frame, random_lines(rng, 576, 720, count=6), jpeg_quality=quality_of(rng))
        mask = masked(detector, painted.pixels)
        letters += int(painted.letters.sum())
        found += int((mask & painted.letters).sum())
        area = find_content_area(frame)
        assert area is not None
        beyond = area.mask.copy()
        for x0, y0, x1, y1 in painted.boxes:
            beyond[max(0, y0 - 8) : y1 + 8, max(0, x0 - 8) : x1 + 8] = False
        far += int((mask & beyond).sum())
        tissue += int(beyond.sum())
        free.append(float(masked(detector, frame).mean()))
    assert found >= 0.98 * letters
    assert far <= 0.01 * tissue
    assert np.mean(free) <= 0.005


def exam(data_dir: Path, rng: np.random.Generator, count: int) -> list[Painted]:
    """Return frames of other tissue each, behind one overlay whose clock runs."""
    frames = []
    for frame in text_free(data_dir, count):
        hour, minute, second = (int(value) for value in rng.integers(0, 60, 3))
        clock = Line(f"{hour:02}:{minute:02}:{second:02}", 60, 275, "bitmap", 11)
        frames.append(paint(frame, [*STANDING, clock], jpeg_quality=quality_of(rng)))
    return frames


def learnt(detector: RapidText, frames: list[Painted]) -> KnownText:
    area = find_content_area(frames[0].pixels)
    assert area is not None
    samples = frames[:: len(frames) // 8][:8]
    return learn_text([(each.pixels, masked(detector, each.pixels)) for each in samples], area)


def test_cached_masks_cover_what_full_detection_finds(
    data_dir: Path, detector: RapidText, request: pytest.FixtureRequest
) -> None:
    """The cache is worth its speed only where it hides what the slow way hides, and no more."""
    rng = np.random.default_rng(21)
    frames = exam(data_dir, rng, 316 if request.config.getoption("--full") else 24)
    known = learnt(detector, frames)
    area = find_content_area(frames[0].pixels)
    assert area is not None
    full = cached = covered = confirmed = 0
    for each in frames:
        mask = masked(detector, each.pixels)
        holds = confirms(known, each.pixels, area)
        confirmed += holds
        used = known.mask if holds else mask
        full, cached, covered = full + mask.sum(), cached + used.sum(), covered + (mask & used).sum()
        for x0, y0, x1, y1 in each.boxes:
            assert used[y0:y1, x0:x1][each.letters[y0:y1, x0:x1]].mean() > 0.5
    assert covered >= 0.98 * full
    assert cached <= 1.10 * full
    assert confirmed >= 0.9 * len(frames)


def test_text_that_is_elsewhere_on_every_frame_is_never_confirmed(
    data_dir: Path, detector: RapidText
) -> None:
    """A frame that is confirmed by mistake keeps its text; three strings a frame, of any size and colour."""
    rng = np.random.default_rng(22)
    area_of = {}
    frames = []
    for frame in text_free(data_dir, 60):
        frames.append(paint(frame, random_lines(rng, 576, 720, count=3), jpeg_quality=quality_of(rng)))
        area_of[len(frames) - 1] = find_content_area(frame)
    area = area_of[0]
    assert area is not None
    known = learn_text([(each.pixels, masked(detector, each.pixels)) for each in frames[:8]], area)
    assert not known.mask.any()
    assert [index for index, each in enumerate(frames) if confirms(known, each.pixels, area)] == []


def test_no_text_is_found_again_in_what_was_filled(
    data_dir: Path, detector: RapidText, request: pytest.FixtureRequest
) -> None:
    """Real dates and field labels at full resolution: letters that the fill left would tell the hospital.

    What is found anew lies elsewhere: reflections, and the processor's icon and bars, once the text is gone.
    """
    normal = sorted((data_dir / "images" / "normal").rglob("*.jpg"))
    paths = sorted((data_dir / "images" / "native_size").glob("*.jpg"))
    paths += normal if request.config.getoption("--full") else normal[::25]
    elsewhere: list[str] = []
    left: list[str] = []
    for path in paths:
        pixels = read(path)
        text = masked(detector, pixels)
        filled, _ = fill(pixels, text, np.ones(text.shape, np.bool_))
        again = masked(detector, filled)
        count, pieces = cv2.connectedComponents(again.astype(np.uint8))
        if any(text[pieces == piece].mean() > 0.5 for piece in range(1, count)):
            left.append(path.name)
        elif again.any():
            elsewhere.append(path.name)
    assert left == []
    assert len(elsewhere) <= 0.4 * len(paths)
