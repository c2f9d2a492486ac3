"""The result as pages: a multi-frame true-colour Secondary Capture, or one single-frame object a page.

The multi-frame form is PS3.3 A.8.5, the single-frame form A.8.1.
"""

import io
import math
from collections.abc import Sequence

from PIL import ImageCms
from pydicom import Dataset, dcmread

from node.results.envelope import Exam, begin_object, by_series, code, encode, reference
from node.results.identity import is_anonymous
from node.results.iod import MULTI_FRAME_TRUE_COLOUR_SC, SINGLE_FRAME_SC
from node.results.page import draw_pages
from node.results.report import EncodedObject, Report, SourceReference
from node.results.uids import derive_uid
from pipeline.frame import Pixels

PAGE_NUMBER_VECTOR = 0x00182001


def build_secondary_capture(
    report: Report, exam: Exam, *, sources: Sequence[SourceReference]
) -> EncodedObject:
    """Return the report as an encoded multi-frame Secondary Capture; the same inputs give the same bytes.

    `sources` are what the pages show, or everything that was read where they show nothing.
    """
    ds = begin_object("sc", MULTI_FRAME_TRUE_COLOUR_SC, report, exam)
    _add_image(ds, report, sources)
    ds.BurnedInAnnotation = "NO" if is_anonymous(report, exam.template) else "YES"
    _add_pixels(ds, draw_pages(report))
    return encode(ds, "sc", "multi_frame", 1)


def to_single_frames(multi_frame: bytes) -> list[EncodedObject]:
    """Return one single-frame Secondary Capture a page, made from the stored multi-frame bytes alone."""
    whole = dcmread(io.BytesIO(multi_frame))
    pixels = whole.PixelData
    size = whole.Rows * whole.Columns * 3
    objects = []
    for item in range(1, int(whole.NumberOfFrames) + 1):
        ds = dcmread(io.BytesIO(multi_frame), stop_before_pixels=True)
        for keyword in ("NumberOfFrames", "FrameIncrementPointer", "PageNumberVector"):
            ds.pop(keyword, None)
        ds.SOPClassUID = SINGLE_FRAME_SC
        ds.SOPInstanceUID = derive_uid(whole.SOPInstanceUID, SINGLE_FRAME_SC, item)
        ds.InstanceNumber = item
        ds.PixelData = pixels[(item - 1) * size : item * size]
        ds["PixelData"].VR = "OB"
        objects.append(encode(ds, "sc", "single_frame", item))
    return objects


def _add_image(ds: Dataset, report: Report, sources: Sequence[SourceReference]) -> None:
    if report.unpredicted_reason == "not_lower_gi":
        ds.Laterality = ""  # unknown to us, and so is the body part
    else:
        ds.BodyPartExamined = "COLON"
    ds.ConversionType = "WSD"
    ds.ImageType = ["DERIVED", "SECONDARY"]
    ds.PatientOrientation = ""
    ds.ContentQualification = "RESEARCH"
    ds.DerivationDescription = (
        f"Pages that state an AI reading and show original frames beside class activations; "
        f"t {report.threshold:g}, k {report.top_k}, model digest {report.model_digest[:12]}"
    )
    ds.SourceImageSequence = [_source(source) for source in sources]
    ds.ReferencedSeriesSequence = by_series(sources, "ReferencedInstanceSequence")
    _add_compression(ds, sources)


def _source(source: SourceReference) -> Dataset:
    item = reference(source)
    if source.frame_numbers:
        item.ReferencedFrameNumber = list(source.frame_numbers)
    item.PurposeOfReferenceCodeSequence = [code("121322", "Source image for image processing operation")]
    return item


def _add_compression(ds: Dataset, sources: Sequence[SourceReference]) -> None:
    """Say that pixels were compressed with loss where those of a source were (PS3.3 C.7.6.1.1.5)."""
    lossy = [source.lossy for source in sources if source.lossy is not None]
    ds.LossyImageCompression = "01" if lossy else "00"
    ratio, method = max(lossy, key=_total_ratio, default=("", ""))
    if method and _total_ratio((ratio, method)):
        ds.LossyImageCompressionRatio, ds.LossyImageCompressionMethod = ratio, method


def _total_ratio(lossy: tuple[str, str]) -> float:
    """Return the product over the steps, or 0 where the source states no number."""
    try:
        ratio = math.prod(float(step) for step in lossy[0].split("\\"))
    except ValueError:
        return 0.0
    return ratio if math.isfinite(ratio) else 0.0


def _add_pixels(ds: Dataset, pages: Sequence[Pixels]) -> None:
    ds.Rows, ds.Columns = pages[0].shape[:2]
    ds.SamplesPerPixel, ds.PlanarConfiguration = 3, 0
    ds.PhotometricInterpretation = "RGB"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.NumberOfFrames = len(pages)
    if len(pages) > 1:  # PS3.3 C.8.6.3: with one frame there is nothing to step through
        ds.FrameIncrementPointer = PAGE_NUMBER_VECTOR
        ds.PageNumberVector = list(range(1, len(pages) + 1))
    ds.ICCProfile = _srgb()
    ds.add_new("PixelData", "OB", b"".join(page.tobytes() for page in pages))


def _srgb() -> bytes:
    """Return an ICC profile of sRGB; its creation date (ICC.1 7.2.8) is blanked, or no two would be equal."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[24:36] = bytes.fromhex("07d0 0001 0001 0000 0000 0000")
    return bytes(profile)
