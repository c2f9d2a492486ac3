"""The pictures of an exam's evidence frames, made from its stored instances and the recipe.

No pixel leaves that has not passed the evidence gate: what it blanked is blank on every layer.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import structlog
from numpy.typing import NDArray
from sqlalchemy import select

from db.jobs import Claim
from db.tables import EvidenceRow, ExamRow, FrameRow, InstanceRow, PredictionRow
from node.exams import instances_of
from node.frames import FrameReader, LookedAt, StoredImage
from node.house import Node
from node.picture_cache import Layer, PictureCache
from node.results.gate import PLATE_LEVEL
from node.results.overlay import overlay
from node.results.report import EvidencePanel
from pipeline.clean.view import outline_synthetic
from pipeline.frame import CleanFrame, Pixels

log = structlog.get_logger()

Shown = tuple[int, str | None, int, int]
"""Position, label, instance and frame number of an evidence frame."""


def make_pictures(node: Node, reader: FrameReader, claim: Claim) -> None:
    """Make every layer of every evidence frame of the exam that the claim names."""
    exam_id = claim.subject_id
    images, shown = _named(node, exam_id)
    cache = PictureCache(node.settings)
    looked_at = reader.look(images, [(instance, number) for _, _, instance, number in shown])
    for (position, label, _, _), seen in zip(shown, looked_at, strict=True):
        keep_layers(cache, exam_id, position, layers(seen, label=label, classes=reader.package.classes))
    cache.trim()
    with node.database.writing() as session:
        node.jobs.finish(session, claim)
    log.info("pictures_made", exam_id=exam_id, evidence=len(shown))


def keep_panels(node: Node, exam_id: str, panels: Sequence[EvidencePanel]) -> None:
    """Keep what a reading has at hand of its evidence; a full disk is no reason for it to fail."""
    cache = PictureCache(node.settings)
    try:
        for position, panel in enumerate(panels, start=1):
            found: dict[Layer, Pixels] = {"frame": panel.pixels, "activation": overlay(panel, panel.pixels)}
            keep_layers(cache, exam_id, position, found)
        cache.trim()
    except OSError as error:
        log.warning("pictures_not_kept", exam_id=exam_id, error=error.strerror)


def keep_layers(cache: PictureCache, exam_id: str, position: int, found: dict[Layer, Pixels]) -> None:
    """Encode layers, RGB, as PNG and keep them."""
    for layer, pixels in found.items():
        encoded = cv2.imencode(".png", pixels[:, :, ::-1], (cv2.IMWRITE_PNG_COMPRESSION, 2))[1]
        cache.keep(exam_id, position, layer, encoded.tobytes())


def layers(seen: LookedAt, *, label: str | None, classes: Sequence[str]) -> dict[Layer, Pixels]:
    """Return the layers of one frame; one that was rejected this time has no more than itself."""
    shown = seen.gated.pixels
    found: dict[Layer, Pixels] = {"frame": shown}
    clean = seen.cleaned
    if seen.gated.verdict == "plate" or not isinstance(clean, CleanFrame):
        return found
    if seen.cam is not None and label is not None and label in classes:
        panel = EvidencePanel(
            pixels=shown, source=clean.source, cam=seen.cam[classes.index(label)], view_box=clean.view_box,
            confidence=0.0, probability=0.0, label=label, voted=False, gate=seen.gated.verdict,
        )  # fmt: skip
        found["activation"] = overlay(panel, shown)
    found["filled"] = outline_synthetic(shown, clean.synthetic)
    found["view"] = _view(seen.pixels, shown, clean)
    return found


def _view(pixels: Pixels, shown: Pixels, clean: CleanFrame) -> Pixels:
    """Return what the model saw, filled places outlined; what the gate blanked, and was not filled, flat."""
    blanked = (pixels != shown).any(axis=2) & ~clean.synthetic
    view = clean.view.copy()
    view[_in_view(blanked, clean)] = PLATE_LEVEL
    return outline_synthetic(view, _in_view(clean.synthetic, clean))


def _in_view(mask: NDArray[np.bool_], clean: CleanFrame) -> NDArray[np.bool_]:
    """Return a mask of the source in the view's geometry: true wherever any of it is."""
    x0, y0, x1, y1 = clean.view_box
    part = mask[y0:y1, x0:x1].astype(np.float32)
    size = (clean.view.shape[1], clean.view.shape[0])
    return np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA) > 0)


def _named(node: Node, exam_id: str) -> tuple[list[StoredImage], list[Shown]]:
    """Return an exam's images and its evidence frames, those whose pixels are still held."""
    with node.database.reading() as session:
        exam = session.get_one(ExamRow, exam_id)
        rows = [row for row in instances_of(session, exam) if row.purged_at is None]
        evidence = session.execute(
            select(EvidenceRow.position, FrameRow.label, InstanceRow.id, FrameRow.frame_number)
            .join(PredictionRow, EvidenceRow.prediction_id == PredictionRow.id)
            .join(FrameRow, EvidenceRow.frame_id == FrameRow.id)
            .join(InstanceRow, FrameRow.instance_id == InstanceRow.id)
            .where(PredictionRow.exam_id == exam_id)
            .order_by(EvidenceRow.position)
        ).all()
    images = [
        StoredImage(row.id, row.sop_instance_uid, row.transfer_syntax_uid, node.files.path(row.sha256))
        for row in rows
    ]
    held = {image.instance_id for image in images}
    return images, [(*found,) for found in evidence if found[2] in held]
