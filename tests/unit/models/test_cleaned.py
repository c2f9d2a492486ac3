"""Frames pass the cleaning once: what is kept serves the same frames and recipe, never others."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, VLEndoscopicImageStorage

from models.cleaned import CleanedFrames, load_cleaned
from models.dataset import Dataset, load_dataset
from pipeline.clean.recipe import DEFAULT
from pipeline.folder import list_items, read_item
from pipeline.frame import Pixels
from pipeline.tools import open_cleaner
from tests.painted_dataset import paint_tissue, write_dataset, write_rows

QUICK = replace(DEFAULT, steps=("content_area", "quality", "crop"))


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Return four painted frames, of which one is flat and one is torn."""
    table = write_dataset(tmp_path, patients=2, frames=2)
    cv2.imwrite(str(tmp_path / "p0/01.jpg"), np.full((240, 280, 3), 120, np.uint8))
    (tmp_path / "p1/02.jpg").write_bytes(b"\xff\xd8\xff\xe0 torn")
    return load_dataset(table, tmp_path)


def same(first: CleanedFrames, second: CleanedFrames) -> bool:
    return (
        np.array_equal(first.views, second.views)
        and np.array_equal(first.kept, second.kept)
        and first.reasons == second.reasons
    )


def test_views_are_the_cleaners_and_what_has_none_says_why(dataset: Dataset, tmp_path: Path) -> None:
    cleaned = load_cleaned(dataset, tmp_path / "cache", QUICK)
    assert cleaned.reasons == ("", "solid_colour", "undecodable", "")
    assert cleaned.kept.tolist() == [True, False, False, True]
    assert cleaned.views.shape == (4, 224, 224, 3)
    assert not cleaned.views[~cleaned.kept].any()
    cleaner = open_cleaner(QUICK)
    for number in (0, 3):
        (item,) = list_items(dataset.root / dataset.frames[number].path)
        expected = cleaner.clean(read_item(item))
        assert np.array_equal(cleaned.views[number], getattr(expected, "view"))  # noqa: B009 (a clean frame's)


def test_the_second_time_nothing_is_cleaned(dataset: Dataset, tmp_path: Path) -> None:
    """The files are gone by then: what comes can only have been kept."""
    first = load_cleaned(dataset, tmp_path / "cache", QUICK)
    for frame in dataset.frames:
        (tmp_path / frame.path).unlink()
    assert same(load_cleaned(dataset, tmp_path / "cache", QUICK), first)


def write_instance(file: Path, pixels: Pixels, number_of_frames: int) -> None:
    instance = pydicom.Dataset()
    instance.file_meta = FileMetaDataset()
    instance.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    instance.SOPClassUID = VLEndoscopicImageStorage
    instance.SOPInstanceUID = "1.2.3.4"
    instance.Rows, instance.Columns, instance.SamplesPerPixel = *pixels.shape[:2], 3
    instance.PhotometricInterpretation, instance.PlanarConfiguration = "RGB", 0
    instance.BitsAllocated = instance.BitsStored = 8
    instance.HighBit, instance.PixelRepresentation, instance.NumberOfFrames = 7, 0, number_of_frames
    instance.PixelData = pixels.tobytes() * number_of_frames
    instance["PixelData"].VR = "OB"
    instance.save_as(file, enforce_file_format=True)


def test_a_frame_may_come_as_png_or_dicom_but_several_in_one_file_are_none(tmp_path: Path) -> None:
    """A row is one frame: which one of several it means, nobody said."""
    pixels = paint_tissue("healthy", 7)
    cv2.imwrite(str(tmp_path / "a.png"), pixels[..., ::-1])
    write_instance(tmp_path / "b", pixels, 1)
    write_instance(tmp_path / "c", pixels, 2)
    header = ("patient", "label", "path", "group")
    rows = [("A", "healthy", name, "g") for name in ("a.png", "b", "c")]
    table = write_rows(tmp_path / "table.csv", [header, *rows])
    cleaned = load_cleaned(load_dataset(table, tmp_path), tmp_path / "cache", QUICK)
    assert cleaned.reasons == ("", "", "undecodable")
    assert np.array_equal(cleaned.views[0], cleaned.views[1])


def tear(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-200])


def pass_for_another(file: Path) -> None:
    with np.load(file) as kept:
        arrays = {**kept, "views": kept["views"] + 1, "digests": np.array(["another", "data set"])}
    np.savez(file, **arrays)


@pytest.mark.parametrize("spoil", [tear, pass_for_another])
def test_what_was_kept_is_not_used_torn_or_for_other_digests(
    dataset: Dataset, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    first = load_cleaned(dataset, tmp_path / "cache", QUICK)
    (file,) = (tmp_path / "cache").iterdir()
    spoil(file)
    assert same(load_cleaned(dataset, tmp_path / "cache", QUICK), first)


def test_another_recipe_and_other_bytes_have_files_of_their_own(dataset: Dataset, tmp_path: Path) -> None:
    load_cleaned(dataset, tmp_path / "cache", QUICK)
    load_cleaned(dataset, tmp_path / "cache", replace(QUICK, steps=("content_area", "crop")))
    (tmp_path / "p1/02.jpg").write_bytes((tmp_path / "p1/03.jpg").read_bytes())
    changed = load_dataset(tmp_path / "frames.csv", tmp_path)
    assert load_cleaned(changed, tmp_path / "cache", QUICK).kept.tolist() == [True, False, True, True]
    assert len(list((tmp_path / "cache").iterdir())) == 3
