"""From what was read to what is sent: the report's values, its panels, and the encoded objects."""

import datetime as dt
import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.multival import MultiValue

from db.tables import ExamRow, InstanceRow, OrderRow, ResultObjectRow
from models.package import MODEL
from models.patient import FOREIGN, PatientPrediction
from node.duplicates import LOSSLESS
from node.frames import MOST_SYNTHETIC, FrameReader, FrameReading
from node.house import Node
from node.orders import request_of
from node.results.envelope import Exam
from node.results.gate import Gated
from node.results.iod import COMPREHENSIVE_3D_SR
from node.results.key_objects import build_key_objects, build_rejection_note
from node.results.report import EncodedObject, EvidencePanel, Report, SourceReference
from node.results.secondary_capture import build_secondary_capture
from node.results.structured_report import build_structured_report
from node.template import read_template
from pipeline.errors import DecodeError
from pipeline.instance import read_header, value_of

STATED_OF_A_SOURCE = (
    "LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod", "NumberOfFrames",
)  # fmt: skip

STATED_OF_QUANTISATION = ("method", "weight_bits", "activation_bits")


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """What a reading starts from: the exam as it stood, its images, its patient and where that is named.

    `superseded` are the results of earlier revisions that this one replaces.
    """

    exam: ExamRow
    instances: list[InstanceRow]
    named_in: list[InstanceRow]
    patient_id: str
    supersedes: int | None
    superseded: list[ResultObjectRow]
    order: OrderRow | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What a reading found.

    Attributes
    ----------
    shown
        The frames that a person sees, in order, and whether each voted.
    is_lower_gi
        None where the headers do not say.
    """

    patient: PatientPrediction
    frames: list[FrameReading]
    shown: list[tuple[FrameReading, bool]]
    is_lower_gi: bool | None


def make_results(
    node: Node,
    reader: FrameReader,
    material: Material,
    outcome: Outcome | None,
    *,
    panels: Sequence[EvidencePanel],
    now: dt.datetime,
) -> list[EncodedObject]:
    """Build the objects that answer one exam revision: pages, structured report, key objects, rejection note.

    They name the evidence frames as their sources; all instances where none is shown. Without evidence there
    are no key objects, and a rejection note only where there is something to withdraw. No outcome stands for
    a reading that failed.

    Raises
    ------
    InvalidResultError
        An object is not what its IOD demands.
    """
    exam = material.exam
    report = _report(node, reader, material, outcome, panels=panels, now=now)
    evidence: dict[str, list[int]] = {}
    for panel in panels:
        evidence.setdefault(panel.source.sop_instance_uid, []).append(panel.source.frame_number)
    named_in = [row for row in material.named_in if row.purged_at is None]
    rows = [row for row in material.instances if row.sop_instance_uid in evidence] or material.named_in
    rows = list({row.sop_instance_uid: row for row in rows}.values())  # what was set aside may have copies
    sources = [_source_reference(node, row, evidence.get(row.sop_instance_uid, [])) for row in rows]
    template = read_template(node, named_in, material.patient_id, exam.study_instance_uid)
    of = Exam(template, node.installation_id, exam.exam_key, node.settings.timezone)
    earlier = [
        SourceReference(row.sop_instance_uid, row.sop_class_uid, row.series_instance_uid, None, ())
        for row in material.superseded
    ]
    predecessors = [named for named in earlier if named.sop_class_uid == COMPREHENSIVE_3D_SR]
    objects = [
        build_secondary_capture(report, of, sources=sources),
        build_structured_report(
            report, of, sources=sources, predecessors=predecessors, request=_request(material)
        ),
    ]
    if panels:
        objects.append(build_key_objects(report, of, sources=sources))
    if earlier:
        objects.append(build_rejection_note(report, of, rejected=earlier))
    return objects


def _request(material: Material) -> Dataset | None:
    order = material.order
    if order is None or order.matched_by is None:
        return None
    return request_of(order, material.exam.study_instance_uid)


def _report(
    node: Node,
    reader: FrameReader,
    material: Material,
    outcome: Outcome | None,
    *,
    panels: Sequence[EvidencePanel],
    now: dt.datetime,
) -> Report:
    exam, package = material.exam, reader.package
    patient, frames = (outcome.patient, outcome.frames) if outcome else (None, [])
    return Report(
        revision=exam.revision,
        supersedes=material.supersedes,
        reading=patient.reading if patient else "failed",
        unpredicted_reason=patient.reason if patient else None,
        probability=patient.probability if patient else None,
        frames_received=len(frames) or len(material.instances),
        frames_kept=sum(frame.prediction is not None for frame in frames),
        frames_foreign=sum(frame.prediction is not None and frame.reason == FOREIGN for frame in frames),
        frames_used=len(patient.used) if patient else 0,
        threshold=package.threshold,
        top_k=package.top_k,
        model_name=package.name,
        model_version=package.version,
        model_digest=package.digest,
        settings_digest=_settings_digest(node, reader),
        quantisation=_quantisation(package.manifest.get("quantisation")),
        weights_digest=package.manifest["files"][MODEL],
        completeness_verdict=exam.completeness_verdict or "unknown",
        missing_count=exam.missing_count,
        body_part_stated=outcome is not None and outcome.is_lower_gi is not None,
        objects_unreadable=len({frame.instance_id for frame in frames if frame.reason == "undecodable"}),
        evidence=tuple(panels),
        created_at=now,
    )


def make_panels(node: Node, reader: FrameReader, material: Material, outcome: Outcome) -> list[EvidencePanel]:
    """Decode the evidence frames once more and pass them through the gate, in the order shown."""
    numbered = {row.id: (number, row) for number, row in enumerate(material.instances, start=1)}
    shown = [(frame, voted, *numbered[frame.instance_id]) for frame, voted in outcome.shown]
    gated = reader.show((node.files.path(row.sha256), frame.frame_number) for frame, _, _, row in shown)
    return [
        _panel(reader, frame, passed, voted=voted, image_number=number)
        for (frame, voted, number, _), passed in zip(shown, gated, strict=True)
    ]


def _panel(
    reader: FrameReader, frame: FrameReading, gated: Gated, *, voted: bool, image_number: int
) -> EvidencePanel:
    prediction = frame.prediction
    if prediction is None or frame.view_box is None:
        raise ValueError(
            f"instance {frame.instance_id} frame {frame.frame_number} was not read, yet is shown"
        )
    cam: NDArray[np.float32] | None = None
    if frame.cam is not None:
        cam = frame.cam[reader.package.classes.index(prediction.label)]
    return EvidencePanel(
        pixels=gated.pixels,
        source=prediction.source,
        cam=cam,
        view_box=frame.view_box,
        confidence=prediction.confidence,
        probability=prediction.probability,
        label=prediction.label,
        voted=voted,
        gate=gated.verdict,
        reason=frame.reason if prediction.confidence >= reader.package.threshold else None,
        synthetic_share=frame.synthetic_share,
        image_number=image_number,
    )


def _source_reference(node: Node, row: InstanceRow, numbers: Sequence[int]) -> SourceReference:
    ds = Dataset()
    if row.purged_at is None:
        with suppress(DecodeError):
            ds = read_header(node.files.path(row.sha256), STATED_OF_A_SOURCE)
    is_single = value_of(ds, "NumberOfFrames") in (None, "", 0, 1)
    lossy = None
    stated = str(value_of(ds, "LossyImageCompression") or "")
    if stated == "01" or (not stated and row.transfer_syntax_uid not in LOSSLESS):
        lossy = (_values(ds, "LossyImageCompressionRatio"), _values(ds, "LossyImageCompressionMethod"))
    return SourceReference(
        sop_instance_uid=row.sop_instance_uid,
        sop_class_uid=row.sop_class_uid,
        series_instance_uid=row.series_instance_uid,
        lossy=lossy,
        frame_numbers=() if is_single else tuple(sorted(numbers)),
    )


def _values(ds: Dataset, keyword: str) -> str:
    value = value_of(ds, keyword)
    return "\\".join(str(part) for part in value) if isinstance(value, MultiValue) else str(value or "")


def _quantisation(stated: Mapping[str, Any] | None) -> str:
    """Return how a package says that its network was quantised, in a line."""
    if not stated:
        return "not stated"
    return ", ".join(f"{name} {stated[name]}" for name in STATED_OF_QUANTISATION if name in stated)


def _settings_digest(node: Node, reader: FrameReader) -> str:
    """Return the SHA-256 of everything but the weights that a reading depends on."""
    stated = {
        "recipe": reader.recipe_digest,
        "threshold": reader.package.threshold,
        "top_k": reader.package.top_k,
        "vote_mode": reader.package.vote_mode,
        "video_frames_per_second": node.settings.video_frames_per_second,
        "max_frame_pixels": node.settings.max_frame_pixels,
        "most_synthetic": MOST_SYNTHETIC,
        "lower_gi": node.settings.lower_gi.model_dump(),
    }
    return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()
