"""A stored prediction is computed once more, from the stored instances, and compared bit for bit."""

import warnings
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import cv2
from sqlalchemy import select
from sqlalchemy.orm import Session

from db.audit import record
from db.tables import EvidenceRow, ExamRow, FrameRow, InstanceRow, PredictionRow
from models.package import Package, load_package
from node.errors import NodeError, NotFoundError
from node.frames import FrameReader
from node.house import Node
from node.reading import gather, read_instances
from node.records import frame_rows, reading_of
from node.reporting import Material, make_panels
from pipeline.clean.recipe import Recipe, load_recipe

OF_A_FRAME = ("kept", "reason", "label", "probability", "confidence", "synthetic_share", "duplicate_group")
"""What must be equal of each frame, beside all that its ledger holds but the time it took."""

Frames = dict[tuple[int, int], tuple[Any, ...]]
Shown = list[tuple[int, int, bool, str]]


@dataclass(frozen=True, slots=True)
class Replay:
    """What a replay has found.

    Attributes
    ----------
    differing
        Of ``reading``, ``probability``, ``frames`` and ``evidence`` what is not the same.
    probability, now
        The patient's, as stored and as computed.
    frames, frames_differing
        How many frames there are, stored or computed, and how many are not the same.
    """

    exam_id: str
    outcome: Literal["same", "different", "instances purged"]
    model_digest: str
    reading: str
    probability: float | None
    differing: tuple[str, ...] = ()
    reading_now: str | None = None
    probability_now: float | None = None
    frames: int = 0
    frames_differing: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class _Stored:
    """A prediction as it was written, and what it was read from."""

    prediction: PredictionRow
    material: Material
    frames: Frames
    shown: Shown


def replay(node: Node, exam_id: str, *, package_dir: Path | None = None, actor: str = "") -> Replay:
    """Read the exam again, by the package in force or the one named, and compare; the exam stays as it is.

    That it was done, and what came of it, is an audit event.

    Raises
    ------
    NotFoundError
        There is no such exam.
    NodeError
        It has not been read, or the package or recipe in force is another than it was read by.
    """
    with node.database.reading() as session:
        stored = _stored(session, exam_id)
    if any(row.purged_at is not None for row in stored.material.instances):
        said = stored.prediction
        found = Replay(exam_id, "instances purged", said.model_digest, said.reading, said.probability)
    else:
        recipe = load_recipe(node.settings.recipe)
        package = load_package(package_dir or node.settings.model_dir, recipe)
        if package_dir is None:
            _check_digests(stored.prediction, package, recipe)
        found = _compare(node, stored, package, recipe)
    with node.database.writing() as session:
        record(
            session, "exam_replayed", exam_id, actor=actor,
            outcome=found.outcome, model_digest=found.model_digest, differing=found.differing,
        )  # fmt: skip
    return found


def _stored(session: Session, exam_id: str) -> _Stored:
    exam = session.get(ExamRow, exam_id)
    if exam is None:
        raise NotFoundError(f"exam {exam_id}: not known; see `endonode exams`")
    prediction = reading_of(session, exam_id)
    if prediction is None:
        raise NodeError(
            f"exam {exam_id}: a read exam was expected, this one is {exam.state}; wait, or `retry`"
        )
    rows = session.scalars(select(FrameRow).where(FrameRow.exam_id == exam_id)).all()
    shown = session.execute(
        select(FrameRow.instance_id, FrameRow.frame_number, EvidenceRow.voted, EvidenceRow.gate)
        .join(EvidenceRow, EvidenceRow.frame_id == FrameRow.id)
        .where(EvidenceRow.prediction_id == prediction.id)
        .order_by(EvidenceRow.position)
    )
    evidence = [(row[0], row[1], row[2], row[3]) for row in shown]
    # by its frames: since it was read, a person may have moved instances away from the exam
    read_from = select(FrameRow.instance_id).where(FrameRow.exam_id == exam_id)
    instances = session.scalars(
        select(InstanceRow).where(InstanceRow.id.in_(read_from)).order_by(InstanceRow.id)
    ).all()
    frames = _by_source(rows)
    material = gather(session, exam)
    if rows:
        material = replace(material, instances=list(instances))
    return _Stored(prediction, material, frames, evidence)


def _check_digests(prediction: PredictionRow, package: Package, recipe: Recipe) -> None:
    for kind, stored, now in (
        ("package", prediction.model_digest, package.digest),
        ("recipe", prediction.recipe_digest, recipe.digest),
    ):
        if stored != now:
            raise NodeError(
                f"exam {prediction.exam_id}: was read with {kind} {stored[:12]}, in force is {now[:12]}; "
                "name the package by --package, and the settings' recipe that it was made for"
            )


def _compare(node: Node, stored: _Stored, package: Package, recipe: Recipe) -> Replay:
    cv2.setNumThreads(1)  # as the worker that has read it
    warnings.filterwarnings("ignore", module=r"pydicom\b")  # they quote header values, names and all
    with closing(FrameReader(package, recipe, node.settings)) as reader:
        outcome = read_instances(node, reader, stored.material.instances)
        panels = make_panels(node, reader, stored.material, outcome)
    said, patient = stored.prediction, outcome.patient
    frames = _by_source(frame_rows(said.exam_id, outcome.frames))
    shown = [
        (frame.instance_id, frame.frame_number, panel.voted, panel.gate)
        for (frame, _), panel in zip(outcome.shown, panels, strict=True)
    ]
    is_same = {
        "reading": (said.reading, said.unpredicted_reason) == (patient.reading, patient.reason),
        "probability": said.probability == patient.probability,
        "frames": stored.frames == frames,
        "evidence": stored.shown == shown,
    }
    sources = stored.frames.keys() | frames.keys()
    return Replay(
        said.exam_id,
        "same" if all(is_same.values()) else "different",
        package.digest,
        said.reading,
        said.probability,
        differing=tuple(name for name, same in is_same.items() if not same),
        reading_now=patient.reading,
        probability_now=patient.probability,
        frames=len(sources),
        frames_differing=sum(stored.frames.get(source) != frames.get(source) for source in sources),
    )


def _by_source(rows: Sequence[FrameRow]) -> Frames:
    """Return what must be equal of each frame, by instance and frame number."""
    return {
        (row.instance_id, row.frame_number): (
            *(getattr(row, name) for name in OF_A_FRAME),
            [
                {name: value for name, value in entry.items() if name != "milliseconds"}
                for entry in row.ledger
            ],
        )
        for row in rows
    }
