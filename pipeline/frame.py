"""What flows through the pipeline: a decoded frame, its cleaned form or its rejection, and the ledger."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Box = tuple[int, int, int, int]
"""``(x0, y0, x1, y1)`` in source pixels, half-open."""

RGB_RANK = 3


def _frozen_rgb(pixels: Pixels, name: str) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != RGB_RANK or pixels.shape[2] != RGB_RANK:
        raise ValueError(
            f"{name}: (rows, columns, 3) uint8 was expected, {pixels.shape} {pixels.dtype} was found"
        )
    pixels.setflags(write=False)


@dataclass(frozen=True, slots=True, order=True)
class FrameSource:
    """Where a frame came from.

    Attributes
    ----------
    sop_instance_uid
        SOP Instance UID of the object that holds it (PS3.3 C.12.1).
    frame_number
        1-based frame number within it (PS3.3 C.7.6.6), also where a video is sampled.
    """

    sop_instance_uid: str
    frame_number: int


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One decoded endoscopic image plane and where it came from.

    Attributes
    ----------
    pixels
        ``(rows, columns, 3)`` uint8, RGB, full range; never YBR, never BGR; square pixels.
    source
        The instance and frame number.
    """

    pixels: Pixels
    source: FrameSource

    def __post_init__(self) -> None:
        """Check rank and dtype; make the pixels read-only."""
        _frozen_rgb(self.pixels, "Frame.pixels")


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """What one cleaning step did to one frame.

    Attributes
    ----------
    step
        Name of the step.
    decision
        ``passed``, ``changed`` or ``rejected``.
    reason
        Why, as a machine value; None where nothing was decided.
    mask_area
        Pixels in the step's mask.
    pixels_changed
        Pixels whose value the step changed; never more than `mask_area`, crop and resize apart.
    milliseconds
        Wall time of the step.
    """

    step: str
    decision: str
    reason: str | None = None
    mask_area: int = 0
    pixels_changed: int = 0
    milliseconds: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class CleanFrame:
    """A frame fit to be read.

    Attributes
    ----------
    source
        The instance and frame number.
    view
        ``(rows, columns, 3)`` uint8 RGB at the model's input size: cleaned, cropped, resized.
    view_box
        The rectangle of the source that `view` shows, in source pixels.
    content_area
        The rectangle that holds the endoscopic image, in source pixels.
    synthetic
        ``(rows, columns)`` bool in the source's geometry: True where a pixel was filled.
    ledger
        One entry a step, in order.
    """

    source: FrameSource
    view: Pixels
    view_box: Box
    content_area: Box
    synthetic: NDArray[np.bool_]
    ledger: tuple[LedgerEntry, ...] = field(default=())

    def __post_init__(self) -> None:
        """Check rank and dtype; make the arrays read-only."""
        _frozen_rgb(self.view, "CleanFrame.view")
        self.synthetic.setflags(write=False)


@dataclass(frozen=True, slots=True)
class RejectedFrame:
    """A frame that is not read, and why.

    Attributes
    ----------
    reason
        Machine value, ``no_content``, or one of `pipeline.clean.quality`.
    """

    source: FrameSource
    reason: str
    ledger: tuple[LedgerEntry, ...] = ()
    content_area: Box | None = None
