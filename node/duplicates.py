"""The same SOP Instance UID again: a copy, a header revision, or another picture under its name."""

import hashlib
from itertools import zip_longest

import numpy as np
from pydicom import Dataset, dcmread, uid
from sqlalchemy.orm import Session

from db.audit import record
from db.jobs import Claim
from db.tables import InstanceRow
from node.exams import flag_conflicts
from node.house import Node
from pipeline.decode import decode
from pipeline.errors import DecodeError

LOSSY_LEVELS = 2
"""Levels (of 255) by which two decodings of one lossy picture may differ: the decoders' own disagreement."""

LOSSLESS = frozenset({
    uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian, uid.JPEGLossless, uid.JPEGLosslessSV1, uid.JPEGLSLossless,
    uid.JPEG2000Lossless, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.RLELossless,
})  # fmt: skip
"""Transfer syntaxes that keep every pixel (PS3.5 10); JPEG 2000 and HTJ2K in their lossless-only forms."""

IDENTITY = ("patient_id", "study_instance_uid", "series_instance_uid", "sop_class_uid")
PIXEL_GROUP = 0x7FE0

DIGESTED_WHOLE_BYTES = 64_000_000
"""Objects up to this size are compared byte by byte in memory first; larger ones frame by frame."""


def compare_copies(node: Node, claim: Claim) -> None:
    """Settle a pending instance against the one in force; a job, since it decodes."""
    with node.database.reading() as session:
        row = session.get_one(InstanceRow, int(claim.subject_id))
        first = session.get_one(InstanceRow, row.same_as_id) if row.same_as_id else None
        session.expunge_all()
    is_open = row.disposition == "pending"
    outcome = _judge(node, first, row) if is_open and first is not None else None
    with node.database.writing() as session:
        for study in sorted({row.study_instance_uid, (first or row).study_instance_uid}):
            node.database.lock_study(session, study)
        if outcome is not None:
            _settle(session, row.id, first, outcome)
        node.jobs.finish(session, claim)


def _settle(
    session: Session, row_id: int, first: InstanceRow | None, outcome: tuple[str, str | None]
) -> None:
    current = session.get_one(InstanceRow, row_id)
    current.disposition, current.disposition_reason = outcome
    if current.disposition == "quarantined" and first is not None:
        for study in {current.study_instance_uid, first.study_instance_uid}:
            flag_conflicts(session, study)
    record(session, f"instance_{current.disposition}", str(row_id), reason=outcome[1])


def _judge(node: Node, first: InstanceRow, second: InstanceRow) -> tuple[str, str | None]:
    for name in IDENTITY:
        if getattr(first, name) != getattr(second, name):
            return "quarantined", f"other_{name}"
    issuers = {row.issuer_of_patient_id for row in (first, second)} - {""}
    if len(issuers) > 1:  # an absent one contradicts nothing
        return "quarantined", "other_issuer_of_patient_id"
    if first.purged_at is not None:
        return "quarantined", "first_is_purged"
    ds_first, ds_second = (
        dcmread(node.files.path(row.sha256), defer_size=4096, force=True) for row in (first, second)
    )
    if "PixelData" not in ds_first and "PixelData" not in ds_second:
        return ("duplicate", None) if _same_header(ds_first, ds_second) else ("quarantined", "other_content")
    if not _same_pixels(node, (first, ds_first), (second, ds_second)):
        return "quarantined", "other_pixels"
    return ("duplicate", None) if _same_header(ds_first, ds_second) else ("header_revision", None)


def _same_header(first: Dataset, second: Dataset) -> bool:
    for ds in (first, second):
        for tag in [tag for tag in ds.keys() if tag.group == PIXEL_GROUP]:  # noqa: SIM118 - iterating gives elements
            del ds[tag]
    return first == second


def _same_pixels(node: Node, first: tuple[InstanceRow, Dataset], second: tuple[InstanceRow, Dataset]) -> bool:
    """Compare the stored bytes, then the decoded frames one pair at a time."""
    if max(first[0].size_bytes, second[0].size_bytes) <= DIGESTED_WHOLE_BYTES:
        digests = [hashlib.sha256(ds.get("PixelData", b"")).digest() for _, ds in (first, second)]
        if digests[0] == digests[1]:
            return True
    is_lossy = any(
        row.transfer_syntax_uid not in LOSSLESS or str(ds.get("LossyImageCompression", "")) == "01"
        for row, ds in (first, second)
    )
    tolerance = LOSSY_LEVELS if is_lossy else 0
    limit = node.settings.max_frame_pixels
    frames = (decode(node.files.path(row.sha256), max_frame_pixels=limit) for row, _ in (first, second))
    try:
        for one, other in zip_longest(*frames):
            if one is None or other is None or one.pixels.shape != other.pixels.shape:
                return False
            if int(np.abs(one.pixels.astype(np.int16) - other.pixels).max(initial=0)) > tolerance:
                return False
    except DecodeError:
        return False
    return True
