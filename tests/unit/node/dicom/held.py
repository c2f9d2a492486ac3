"""What a receiver under test holds: images with names of any bytes, and results of our own."""

from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from sqlalchemy import select

from db.engine import utc_now
from db.tables import ExamRow, ResultObjectRow
from node.house import Node
from node.results.report import EncodedObject
from tests.integration.delivering import result


def store(port: int, ds: Dataset, *, name: bytes, character_set: str) -> None:
    """Store an object as PACS, its Patient's Name in just these bytes."""
    ds.SpecificCharacterSet = character_set.split("\\")
    name += b" " * (len(name) % 2)
    tag = Tag("PatientName")
    ds[tag] = RawDataElement(tag, "PN", len(name), name, 0, is_implicit_VR=False, is_little_endian=True)
    ds.set_original_encoding(False, True, ds._character_set)  # noqa: FBT003
    ds.ensure_file_meta()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ae = AE("PACS")
    ae.add_requested_context(ds.SOPClassUID, ExplicitVRLittleEndian)
    assoc = ae.associate("127.0.0.1", port, ae_title="ENDONODE")
    assert assoc.send_c_store(ds).Status == 0
    assoc.release()


def hold_result(node: Node, study_instance_uid: str, pages: int = 2) -> EncodedObject:
    """Let the study's exam have been read and answered."""
    encoded = result(study_instance_uid, pages)
    kept = node.files.keep_bytes(encoded.data)
    with node.database.writing() as session:
        of_study = ExamRow.study_instance_uid == study_instance_uid
        exam = session.scalars(select(ExamRow).where(of_study)).one()
        exam.state = "read"
        session.add(
            ResultObjectRow(
                exam_id=exam.id, kind=encoded.kind, form=encoded.form, item=encoded.item,
                sop_instance_uid=encoded.sop_instance_uid, sop_class_uid=encoded.sop_class_uid,
                series_instance_uid=encoded.series_instance_uid,
                sha256=kept.sha256, size_bytes=kept.size_bytes, created_at=utc_now(),
            )
        )  # fmt: skip
    return encoded
