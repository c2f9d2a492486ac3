"""One RGB frame as a VL Endoscopic Image object, the way an endoscopy system would store it."""

import numpy as np
import simplejpeg
from pydicom import Dataset, FileMetaDataset
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGBaseline8Bit, VLEndoscopicImageStorage

from node.results.uids import derive_uid
from pipeline.frame import Pixels

PAINTED_ON = "20000101"
"""A date that is plainly nobody's examination."""


def wrap(
    pixels: Pixels,
    *,
    patient_id: str,
    study_instance_uid: str,
    instance_number: int = 1,
    series_instance_uid: str | None = None,
    sop_instance_uid: str | None = None,
    jpeg_quality: int | None = None,
) -> FileDataset:
    """Wrap one frame (PS3.3 A.32.1, VL Endoscopic Image IOD).

    Parameters
    ----------
    pixels
        ``(rows, columns, 3)`` uint8 RGB.
    series_instance_uid, sop_instance_uid
        By default derived from the study and, for the instance, its number.
    jpeg_quality
        1-100 for JPEG baseline, 4:2:2; None for Explicit VR Little Endian.

    Returns
    -------
    A dataset with its file meta information, ready for ``save_as(..., enforce_file_format=True)``.
    """
    rows, columns = pixels.shape[:2]
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = VLEndoscopicImageStorage
    meta.MediaStorageSOPInstanceUID = UID(sop_instance_uid or derive_uid(study_instance_uid, instance_number))
    meta.TransferSyntaxUID = ExplicitVRLittleEndian if jpeg_quality is None else JPEGBaseline8Bit
    ds = FileDataset("", Dataset(), preamble=bytes(128), file_meta=meta)
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["ORIGINAL", "PRIMARY"]
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.StudyDate, ds.StudyTime, ds.StudyID = PAINTED_ON, "120000", "1"
    ds.ReferringPhysicianName = ds.AccessionNumber = ""
    ds.PatientName, ds.PatientID = "DEMO^PAINTED", patient_id
    ds.PatientBirthDate = ds.PatientSex = ""
    ds.Modality, ds.BodyPartExamined = "ES", "COLON"
    ds.Manufacturer, ds.ManufacturerModelName = "endonode", "painted frames"
    ds.StudyInstanceUID = study_instance_uid
    ds.SeriesInstanceUID = series_instance_uid or derive_uid(study_instance_uid, "series")
    ds.SeriesNumber, ds.InstanceNumber = 1, instance_number
    ds.PatientOrientation = ""
    ds.ContentDate = PAINTED_ON
    minute, second = divmod(instance_number % 3600, 60)
    ds.ContentTime = f"12{minute:02}{second:02}"
    ds.AcquisitionContextSequence = []
    ds.BurnedInAnnotation = "YES"
    ds.SamplesPerPixel, ds.PlanarConfiguration = 3, 0
    ds.Rows, ds.Columns = rows, columns
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    if jpeg_quality is None:
        ds.PhotometricInterpretation, ds.LossyImageCompression = "RGB", "00"
        raw = pixels.tobytes()
        ds.PixelData = raw + b"\0" * (len(raw) % 2)
        return ds
    jpeg = simplejpeg.encode_jpeg(
        np.ascontiguousarray(pixels), quality=jpeg_quality, colorspace="RGB", colorsubsampling="422"
    )
    ds.PhotometricInterpretation, ds.LossyImageCompression = "YBR_FULL_422", "01"
    ds.LossyImageCompressionRatio = f"{pixels.nbytes / len(jpeg):.2f}"
    ds.LossyImageCompressionMethod = "ISO_10918_1"
    ds.PixelData = encapsulate([jpeg])
    ds["PixelData"].is_undefined_length = True
    return ds
