"""Instruments found by a Mask R-CNN of Detectron2, where Detectron2 is installed (`docs/instruments.md`)."""

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PipelineError
from pipeline.frame import Pixels

LEAST_CHANCE = 0.5
"""Score from which a found object counts; no checkpoint is in reach to tune it on."""

Predictor = Callable[[Pixels], dict[str, Any]]
"""Takes a frame in **BGR**; ``instances`` have ``pred_masks`` (N, rows, columns) bool and ``scores`` (N,)."""


class Detectron2Error(PipelineError):
    """Detectron2 is not installed, or the checkpoint is not the one that was named."""


class Detectron2Instruments:
    """An `InstrumentDetector` made of a predictor; threads that share it wait for one another.

    Parameters
    ----------
    predictor
        Such as `detectron2.engine.DefaultPredictor`; all its classes are taken for instruments.
    digest
        SHA-256 of the checkpoint, which names it in a recipe.
    least_chance
        Score from which a found object counts.
    """

    def __init__(self, predictor: Predictor, *, digest: str, least_chance: float = LEAST_CHANCE) -> None:
        self.digest = digest
        self._predictor = predictor
        self._least_chance = least_chance
        self._lock = threading.Lock()

    def __call__(self, pixels: Pixels) -> NDArray[np.bool_]:
        """Return ``(rows, columns)`` bool, True on instruments."""
        with self._lock:
            found = self._predictor(np.ascontiguousarray(pixels[..., ::-1]))["instances"].to("cpu")
        masks = np.asarray(found.pred_masks, np.bool_).reshape(-1, *pixels.shape[:2])
        counted = np.asarray(found.scores) >= self._least_chance
        return np.asarray(masks[counted].any(axis=0))


def load_detectron2(
    config: Path, checkpoint: Path, *, sha256: str, least_chance: float = LEAST_CHANCE
) -> Detectron2Instruments:
    """Load a Mask R-CNN checkpoint by the configuration that it was trained with; it runs on the CPU.

    Parameters
    ----------
    sha256
        The checkpoint's digest: a checkpoint is a pickle and may hold code, so no other file is opened.

    Raises
    ------
    Detectron2Error
        Detectron2 is not installed, a file is missing, or the checkpoint has another digest.
    """
    try:
        from detectron2.config import get_cfg  # an optional package, and a slow import
        from detectron2.engine import DefaultPredictor
    except ImportError as error:
        raise Detectron2Error(
            "instruments: Detectron2 was expected and is not installed; install torch and torchvision of one "
            "release, then: pip install --no-build-isolation "
            "'git+https://github.com/facebookresearch/detectron2.git' (docs/instruments.md)"
        ) from error
    try:
        found = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    except OSError as error:
        raise Detectron2Error(
            f"{checkpoint}: a readable checkpoint was expected ({error.strerror})"
        ) from error
    if found != sha256:
        raise Detectron2Error(
            f"{checkpoint}: SHA-256 {sha256} was expected, {found} was found; "
            "name the checkpoint that was measured"
        )
    settings = get_cfg()
    settings.merge_from_file(str(config))
    settings.MODEL.WEIGHTS = str(checkpoint)
    settings.MODEL.DEVICE = "cpu"
    settings.MODEL.ROI_HEADS.SCORE_THRESH_TEST = least_chance
    return Detectron2Instruments(DefaultPredictor(settings), digest=sha256, least_chance=least_chance)
