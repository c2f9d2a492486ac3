"""What a result says, as values: the report of one exam revision, its sources, the encoded objects."""

import datetime as dt
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.frame import Box, FrameSource, Pixels

CAM_RANK = 2

Verdict = Literal["clean", "blanked", "plate"]
"""Of the evidence gate on a frame: shown as it came; its text blanked flat; nothing of it left."""


@dataclass(frozen=True, slots=True, eq=False)
class EvidencePanel:
    """One frame that a person is shown, with what the model made of it.

    Attributes
    ----------
    pixels
        ``(rows, columns, 3)`` uint8 RGB: the original frame as the evidence gate let it pass, square pixels.
    source
        The instance and 1-based frame number it came from.
    cam
        ``(h, w)`` float32 activations of the class in `label`, spread over `view_box`; None where the network
        gives none.
    view_box
        The rectangle of `pixels` that the model saw, in source pixels.
    confidence
        Largest softmax probability, 0-1.
    probability
        Calibrated probability of the positive class, 0-1.
    label
        The class it was read as.
    voted
        False where it only illustrates.
    gate
        What the evidence gate made of `pixels`.
    reason
        Machine value: why a frame did not vote although it reached the threshold; else None.
    synthetic_share
        Share of the activations' mass, 0-1, that lies on filled pixels; None without activations.
    image_number
        1-based position of the source among the exam's images; None where that is not told.
    """

    pixels: Pixels
    source: FrameSource
    cam: NDArray[np.float32] | None
    view_box: Box
    confidence: float
    probability: float
    label: str
    voted: bool
    gate: Verdict
    reason: str | None = None
    synthetic_share: float | None = None
    image_number: int | None = None

    def __post_init__(self) -> None:
        """Check ranks and the box."""
        rows, columns = self.pixels.shape[:2]
        x0, y0, x1, y1 = self.view_box
        if not (0 <= x0 < x1 <= columns and 0 <= y0 < y1 <= rows):
            raise ValueError(
                f"view_box: a rectangle within {columns} x {rows} was expected, {self.view_box} found"
            )
        if self.cam is not None and self.cam.ndim != CAM_RANK:
            raise ValueError(f"cam: (h, w) was expected, {self.cam.shape} was found")


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """Everything the pages of a result state. It holds no name, id or date of the patient.

    Attributes
    ----------
    supersedes
        The revision that this one replaces, or None.
    reading
        ``ibd``, ``healthy``, ``unpredicted`` or, where the reading itself broke off, ``failed``: machine
        values, never shown as they are.
    unpredicted_reason
        Machine value, such as ``below_threshold``; None unless `reading` is ``unpredicted``.
    probability
        Calibrated probability of IBD for the patient, 0-1, or None.
    settings_digest
        SHA-256 of everything but the model that a reading depends on.
    quantisation
        How the model's weights and activations are represented.
    weights_digest
        SHA-256 (hex) of the network's file.
    completeness_verdict
        ``complete``, ``incomplete`` or ``unknown``.
    missing_count
        Images the PACS holds that did not arrive, where it said so.
    frames_foreign
        Of the frames kept, those that do not vote for being unlike what the model has learnt from.
    objects_unreadable
        Received objects that could not be decoded, or not to their end.
    created_at
        When the report was made; timezone-aware.
    """

    revision: int
    supersedes: int | None
    reading: str
    unpredicted_reason: str | None
    probability: float | None
    frames_received: int
    frames_kept: int
    frames_foreign: int
    frames_used: int
    threshold: float
    top_k: int
    model_name: str
    model_version: str
    model_digest: str
    settings_digest: str
    quantisation: str
    weights_digest: str
    completeness_verdict: str
    missing_count: int | None
    body_part_stated: bool
    objects_unreadable: int
    evidence: tuple[EvidencePanel, ...]
    created_at: dt.datetime

    def __post_init__(self) -> None:
        """Refuse a reading nobody has words for, and a time without a zone."""
        if self.reading not in ("ibd", "healthy", "unpredicted", "failed"):
            raise ValueError(f"reading: {self.reading!r} is none of ibd, healthy, unpredicted and failed")
        if self.created_at.tzinfo is None:
            raise ValueError("created_at: a timezone-aware datetime was expected, a naive one was found")


@dataclass(frozen=True, slots=True)
class SourceReference:
    """An image that a result was made from.

    Attributes
    ----------
    lossy
        Lossy Image Compression Ratio and Method as the source states them (values joined by a backslash,
        ``""`` where it states none), or None where the source is lossless.
    frame_numbers
        1-based frames of a multi-frame source that were used; empty for all, and for a single-frame source.
    """

    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    lossy: tuple[str, str] | None
    frame_numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class EncodedObject:
    """A DICOM object of ours as it is stored and sent: `data` is a whole Part 10 file.

    Attributes
    ----------
    kind
        ``sc`` (pages), ``sr`` (structured report), ``ko`` (key objects) or ``rn`` (rejection note).
    form
        The rung of the kind's fallback ladder: ``multi_frame`` or ``single_frame`` of an sc,
        ``comprehensive_3d`` or ``comprehensive`` of an sr, ``key_object`` of a ko and an rn.
    item
        1-based number within its kind and form.
    """

    kind: str
    form: str
    item: int
    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    data: bytes
