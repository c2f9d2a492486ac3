"""Headers are read in bounded memory, whatever the pixels behind them would expand to."""

import tracemalloc
import zlib
from pathlib import Path

import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian

from pipeline.errors import DecodeError
from pipeline.instance import read_header, value_of
from tests.unit.pipeline.conftest import Write

PIXEL_BYTES = 100_000_000


def test_the_header_of_a_deflated_object_costs_no_memory(instance_of: Write) -> None:
    """A file of some 100 kB may hold 100 MB of black: a worker that inflates it in memory is killed."""
    path = instance_of(
        bytes(PIXEL_BYTES), syntax=DeflatedExplicitVRLittleEndian, Rows=1000, Columns=1000, NumberOfFrames=33
    )
    assert path.stat().st_size < PIXEL_BYTES // 500
    tracemalloc.start()
    try:
        headers = [read_header(path), read_header(path, ["NumberOfFrames"])]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10_000_000
    assert [value_of(ds, "NumberOfFrames") for ds in headers] == [33, 33]
    assert [value_of(ds, "Rows") for ds in headers] == [1000, None]


def test_what_is_no_header_is_one_clear_error(tmp_path: Path) -> None:
    """Who asks for a header goes on with the next instance, and needs one kind of error to tell."""
    path = tmp_path / "1.dcm"
    path.write_bytes(zlib.compress(b"nothing") * 50)
    with pytest.raises(DecodeError, match="instance unknown: a readable image header was expected"):
        read_header(path)


def test_a_header_without_the_length_of_its_meta_group_is_read(instance_of: Write) -> None:
    """Old writers leave it out or get it wrong; what follows the group says where it ends."""
    path = instance_of(bytes(12), Rows=2, Columns=2, SamplesPerPixel=3)
    stored = path.read_bytes()
    assert stored[132:136] == b"\x02\0\0\0"
    wrong = stored[:140] + b"\x07\0\0\0" + stored[144:]
    for altered in (stored[:132] + stored[144:], wrong):
        path.write_bytes(altered)
        assert read_header(path)["Rows"].value == 2
