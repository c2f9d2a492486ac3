"""The same UID again, settled by its pixels: copy, header revision, or another picture."""

from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from pydicom import Dataset
from sqlalchemy import select

from db.engine import utc_now
from db.tables import ExamRow, InstanceRow
from node.demo.painting import paint_frame
from node.demo.wrapping import wrap
from node.duplicates import compare_copies
from node.house import Node
from pipeline.frame import Pixels
from tests.unit.node.conftest import ClaimOf, Sender

UID = "1.2.826.0.1.9"


def _bytes(ds: Dataset) -> bytes:
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _object(pixels: Pixels, *, jpeg_quality: int | None = None, **changes: str) -> Dataset:
    ds = wrap(
        pixels, patient_id="P1", study_instance_uid="1.2.3", sop_instance_uid=UID, jpeg_quality=jpeg_quality
    )
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    return ds


@pytest.fixture(scope="module")
def pixels() -> Pixels:
    """Return a painted frame."""
    return paint_frame(1, ulcers=True, instrument=False, text=None, rows=128, columns=160)


@pytest.fixture
def settle(node: Node, send: Sender, claim_of: ClaimOf) -> Callable[..., InstanceRow]:
    """Return a function that admits two objects of one UID and compares them."""

    def run(first: Dataset, second: Dataset, **header: str) -> InstanceRow:
        send(UID, content=_bytes(first), transfer_syntax_uid=str(first.file_meta.TransferSyntaxUID))
        syntax = str(second.file_meta.TransferSyntaxUID)
        row = send(UID, content=_bytes(second), **{"transfer_syntax_uid": syntax, **header})
        assert row.disposition == "pending"
        compare_copies(node, claim_of("compare"))
        with node.database.reading() as session:
            settled = session.get_one(InstanceRow, row.id)
            session.expunge(settled)
        return settled

    return run


def test_a_changed_header_is_a_header_revision(
    settle: Callable[..., InstanceRow],
    pixels: Pixels,
) -> None:
    """A corrected description comes with the same picture: kept, and nothing is read again."""
    row = settle(_object(pixels), _object(pixels, StudyDescription="corrected"))
    assert row.disposition == "header_revision"


def test_a_recompressed_copy_within_two_levels_is_the_same_picture(
    settle: Callable[..., InstanceRow],
    pixels: Pixels,
) -> None:
    """An archive may hand the picture back decoded; the decoders' own disagreement makes no new picture."""
    lossy = _object(pixels, jpeg_quality=95)
    decoded = _object(lossy.pixel_array, LossyImageCompression="01")
    assert settle(lossy, decoded).disposition in ("header_revision", "duplicate")


def test_other_pixels_are_quarantined_and_the_exam_flagged(
    node: Node,
    settle: Callable[..., InstanceRow],
    pixels: Pixels,
) -> None:
    """Three levels off in a lossless object is another picture; the first is never overwritten."""
    other = np.where(pixels > 250, pixels, pixels + 3).astype(np.uint8)
    row = settle(_object(pixels), _object(other))
    assert (row.disposition, row.disposition_reason) == ("quarantined", "other_pixels")
    with node.database.reading() as session:
        assert session.scalars(select(ExamRow.has_conflict)).one()


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"patient_id": "P2"}, "other_patient_id"),
        ({"series_instance_uid": "1.2.9"}, "other_series_instance_uid"),
        ({"study_instance_uid": "1.2.8"}, "other_study_instance_uid"),
    ],
)
def test_the_same_picture_in_another_place_is_quarantined(
    settle: Callable[..., InstanceRow],
    pixels: Pixels,
    changed: dict[str, str],
    reason: str,
) -> None:
    """One UID in two series is a defect of the sender that a person must see."""
    row = settle(_object(pixels), _object(pixels, StudyDescription="other"), **changed)
    assert (row.disposition, row.disposition_reason) == ("quarantined", reason)


@pytest.mark.parametrize(
    ("second", "disposition", "reason"),
    [("CLINIC", "quarantined", "other_issuer_of_patient_id"), ("", "header_revision", None)],
)
def test_the_issuer_is_part_of_whose_picture_it_is(
    node: Node,
    send: Sender,
    claim_of: ClaimOf,
    pixels: Pixels,
    second: str,
    disposition: str,
    reason: str | None,
) -> None:
    """One Patient ID of two issuers is two patients; an issuer left out contradicts nothing."""
    send(UID, content=_bytes(_object(pixels)), issuer_of_patient_id="HOSPITAL")
    other = _bytes(_object(pixels, StudyDescription="other"))
    row = send(UID, content=other, issuer_of_patient_id=second)
    compare_copies(node, claim_of("compare"))
    with node.database.reading() as session:
        settled = session.get_one(InstanceRow, row.id)
        assert (settled.disposition, settled.disposition_reason) == (disposition, reason)


def test_what_cannot_be_compared_any_more_is_left_to_a_person(
    node: Node, send: Sender, claim_of: ClaimOf, pixels: Pixels
) -> None:
    """The first one's pixels are purged: a comparison would fail, and the object wait, for ever."""
    first = send(UID, content=_bytes(_object(pixels)))
    with node.database.writing() as session:
        session.get_one(InstanceRow, first.id).purged_at = utc_now()
    node.files.purge(first.sha256)
    row = send(UID, content=_bytes(_object(pixels, StudyDescription="corrected")))
    compare_copies(node, claim_of("compare"))
    with node.database.reading() as session:
        settled = session.get_one(InstanceRow, row.id)
        assert (settled.disposition, settled.disposition_reason) == ("quarantined", "first_is_purged")
