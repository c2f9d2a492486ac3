"""The recipe of the cleaning: what is done, with which settings, and one digest of it all."""

import hashlib
import json
from dataclasses import asdict, dataclass, field

from pipeline.clean.crop import VIEW_SIDE
from pipeline.clean.quality import QualityLimits

STEPS = ("content_area", "quality", "text", "fill", "crop")
"""The steps, in the order they are done; each is a module of this package."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What the cleaning does to every frame.

    Attributes
    ----------
    version
        Raised whenever a step's code or constants change what comes out.
    quality
        From where a frame is refused.
    text_detector
        What finds overlay text.
    view_side
        Rows and columns of the view.
    """

    version: int = 1
    quality: QualityLimits = field(default_factory=QualityLimits)
    text_detector: str = "rapidocr 3.10.0 PP-OCRv6_det_small"
    view_side: int = VIEW_SIDE

    @property
    def digest(self) -> str:
        """SHA-256 of the steps and settings, as canonical JSON."""
        text = json.dumps({"steps": STEPS, **asdict(self)}, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


DEFAULT = Recipe()
