"""What every instrument detector promises, held against each of them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.adapters.detectron2 import Detectron2Instruments
from pipeline.adapters.instrument_network import InstrumentNetwork
from pipeline.clean.instruments import InstrumentDetector


@dataclass(frozen=True)
class FoundInstances:
    """What Detectron2's `Instances` gives to whoever reads it."""

    pred_masks: NDArray[np.bool_]
    scores: NDArray[np.float32]

    def to(self, device: str) -> "FoundInstances":
        """Return itself: it is on the CPU."""
        assert device == "cpu"
        return self


def stand_in(bgr: NDArray[np.uint8]) -> dict[str, Any]:
    """Find what is bluish, surely, and what is greenish, doubtfully; answer as `DefaultPredictor` does."""
    blue, green, red = (bgr[..., channel].astype(int) for channel in range(3))
    masks = [blue > red + 30, green > red + 60]
    found = [(mask, score) for mask, score in zip(masks, (0.9, 0.3), strict=True) if mask.any()]
    shape = (len(found), *bgr.shape[:2])
    return {
        "instances": FoundInstances(
            np.array([mask for mask, _ in found], np.bool_).reshape(shape),
            np.array([score for _, score in found], np.float32),
        )
    }


@pytest.fixture(scope="module", params=["network", "detectron2"])
def detector(request: pytest.FixtureRequest) -> InstrumentDetector:
    if request.param == "network":
        return InstrumentNetwork()
    return Detectron2Instruments(stand_in, digest="0" * 64)


def mucosa(rows: int, columns: int) -> NDArray[np.uint8]:
    """Return reddish, softly shaded tissue."""
    y, x = np.mgrid[:rows, :columns]
    shade = 0.7 + 0.3 * np.cos(3 * y / rows) * np.cos(2 * x / columns)
    return np.asarray(shade[..., None] * np.array([190, 95, 75]), np.uint8)


def with_blue_sheath(frame: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return the frame with a pale blue catheter that comes in from below, and where it is."""
    rows, columns = frame.shape[:2]
    y, x = np.mgrid[:rows, :columns]
    across = (x - 0.55 * columns + 0.25 * (rows - y)) / (0.05 * columns + 0.04 * (y - 0.4 * rows))
    tube = (np.abs(across) < 1) & (y > 0.45 * rows)
    light = (0.55 + 0.45 * np.sqrt(np.clip(1 - across**2, 0, 1)))[..., None]
    painted = np.where(tube[..., None], light * np.array([150, 190, 245]), frame)
    return painted.astype(np.uint8), tube


@settings(max_examples=12)
@given(st.integers(16, 300), st.integers(16, 300), st.integers(0, 2**16))
def test_a_mask_has_the_frames_own_geometry(
    detector: InstrumentDetector, rows: int, columns: int, seed: int
) -> None:
    """A mask at the network's size would cut out the wrong tissue."""
    frame = np.random.default_rng(seed).integers(0, 256, (rows, columns, 3)).astype(np.uint8)
    mask = detector(frame)
    assert mask.shape == (rows, columns)
    assert mask.dtype == np.bool_


def test_a_read_only_frame_is_read_and_left_as_it_was(detector: InstrumentDetector) -> None:
    """Frames are shared by the steps of the cleaning."""
    frame, _ = with_blue_sheath(mucosa(240, 300))
    before = frame.copy()
    frame.setflags(write=False)
    first = detector(frame)
    np.testing.assert_array_equal(frame, before)
    np.testing.assert_array_equal(detector(frame), first)


@pytest.mark.parametrize("level", [0, 3])
def test_a_black_frame_holds_no_instrument(detector: InstrumentDetector, level: int) -> None:
    assert not detector(np.full((576, 720, 3), level, np.uint8)).any()


def test_bare_tissue_holds_no_instrument(detector: InstrumentDetector) -> None:
    assert detector(mucosa(480, 600)).mean() < 0.005


@pytest.mark.parametrize(("rows", "columns"), [(480, 600), (576, 720), (1072, 1349)])
def test_a_blue_sheath_is_found_where_it_is(detector: InstrumentDetector, rows: int, columns: int) -> None:
    """The colours must be those of RGB: to a detector that takes BGR for it, the sheath is orange."""
    frame, tube = with_blue_sheath(mucosa(rows, columns))
    mask = detector(frame)
    assert 2 * (mask & tube).sum() / (mask.sum() + tube.sum()) > 0.8
