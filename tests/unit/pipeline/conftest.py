"""Painted endoscopic frames and small instances, for tests that need no real ones."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    UncompressedTransferSyntaxes,
)

from pipeline.frame import Pixels

Mucosa = Callable[[int, int, int], Pixels]
Outline = Callable[[str, int, int], NDArray[np.bool_]]
Write = Callable[..., Path]


@pytest.fixture(scope="session")
def mucosa() -> Mucosa:
    """Return a painter of textured, unevenly lit tissue: ``(rows, columns, seed)`` to RGB."""

    def paint(rows: int, columns: int, seed: int) -> Pixels:
        random = np.random.default_rng(seed)
        coarse = cv2.resize(random.normal(0, 25, (12, 16)), (columns, rows), interpolation=cv2.INTER_CUBIC)
        fine = cv2.GaussianBlur(random.normal(0, 30, (rows, columns)), (0, 0), 1.5)
        shade = (coarse + fine)[..., np.newaxis] * (1.0, 0.8, 0.7)
        painted: Pixels = np.clip(np.array((190, 105, 85)) + shade, 45, 250).astype(np.uint8)
        return painted

    return paint


@pytest.fixture(scope="session")
def outline() -> Outline:
    """Return a painter of the shapes that processors leave of the image: True inside."""

    def draw(shape: str, rows: int, columns: int) -> NDArray[np.bool_]:
        mask = np.zeros((rows, columns), np.uint8)
        top, left, bottom, right = rows // 20, columns // 16, rows - rows // 20, columns - columns // 16
        cut = (bottom - top) // 5
        if shape == "full":
            mask[:] = 1
        elif shape == "rectangle":
            mask[top:bottom, left:right] = 1
        elif shape == "circle":
            cv2.circle(mask, (columns // 2, rows // 2), (bottom - top) // 2, 1, -1)
        else:
            corners = [
                (left + cut, top), (right - cut, top), (right, top + cut), (right, bottom - cut),
                (right - cut, bottom), (left + cut, bottom), (left, bottom - cut), (left, top + cut),
            ]  # fmt: skip
            cv2.fillPoly(mask, [np.array(corners)], 1)
        return mask.astype(np.bool_)

    return draw


@pytest.fixture
def instance_of(tmp_path: Path) -> Write:
    """Return a writer of a small instance: attributes over those of a plain 8-bit RGB image."""

    def write(
        pixel_data: bytes | None, *, syntax: str = ExplicitVRLittleEndian, **attributes: object
    ) -> Path:
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = UID(syntax)
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = UID(
            "1.2.840.10008.5.1.4.1.1.77.1.1"
        )
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3.4")
        dataset.PatientName, dataset.PatientID = "Secret^Patient", "SECRET-7"
        plain = {
            "Rows": 2, "Columns": 2, "SamplesPerPixel": 3, "PhotometricInterpretation": "RGB",
            "PlanarConfiguration": 0, "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7,
            "PixelRepresentation": 0,
        }  # fmt: skip
        for keyword, value in {**plain, **attributes}.items():
            setattr(dataset, keyword, value)
        if pixel_data is not None:
            dataset.PixelData = pixel_data
            dataset["PixelData"].VR = "OW" if UID(syntax) == ExplicitVRBigEndian else "OB"
            dataset["PixelData"].is_undefined_length = UID(syntax) not in UncompressedTransferSyntaxes
        path = tmp_path / "instance.dcm"
        is_little = UID(syntax) != ExplicitVRBigEndian
        dataset.save_as(
            path,
            enforce_file_format=True,
            implicit_vr=syntax == ImplicitVRLittleEndian,
            little_endian=is_little,
        )
        return path

    return write
