"""How fast we take objects in, beside Orthanc and storescp: one JSON line a kind of object and sender.

All three run at once on this machine and are sent the same objects in turn, by the same DCMTK sender, on one
association. The node makes every check and fsync it makes in service; Orthanc runs with its default sync;
storescp writes files and no more. Every round has new SOP Instance UIDs, so that nothing is a duplicate.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    VLEndoscopicImageStorage,
    generate_uid,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.acceptance.peers import NodeProcess, Orthanc, free_port, wait_for

ROWS, COLUMNS = 1024, 1280
UID_PLACEHOLDER = "1.2.826.0.1.3680043.10.1." + "9" * 20


@dataclass(frozen=True)
class Kind:
    """A kind of object: how many, and how it is made and offered."""

    name: str
    count: int
    compressed_bytes: int | None
    storescu_option: str


KINDS = (Kind("300 x 152 kB JPEG", 300, 152_000, "-xy"), Kind("200 x 3.9 MB raw", 200, None, "-x="))


def write_objects(folder: Path, kind: Kind) -> list[Path]:
    """Write the objects once; `rename_objects` gives them new UIDs for each round."""
    rng = np.random.default_rng(1)
    folder.mkdir(parents=True)
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = VLEndoscopicImageStorage, UID_PLACEHOLDER
    ds.StudyDate = ds.ContentDate = "20240101"
    ds.StudyTime = ds.ContentTime = "120000"
    ds.AccessionNumber, ds.Modality, ds.Manufacturer, ds.ReferringPhysicianName = "", "ES", "", ""
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "BENCH^INGEST", "BENCH", "", ""
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
    ds.StudyID, ds.SeriesNumber = "1", 1
    ds.SamplesPerPixel, ds.PlanarConfiguration, ds.Rows, ds.Columns = 3, 0, ROWS, COLUMNS
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.PhotometricInterpretation = "RGB" if kind.compressed_bytes is None else "YBR_FULL_422"
    paths = []
    for number in range(kind.count):
        ds.InstanceNumber = number
        size = kind.compressed_bytes or ROWS * COLUMNS * 3
        pixels = rng.integers(0, 256, size, np.uint8).tobytes()
        ds.PixelData = pixels if kind.compressed_bytes is None else encapsulate([pixels])
        ds["PixelData"].VR = "OB"
        if kind.compressed_bytes is not None:
            ds["PixelData"].is_undefined_length = True
        syntax = ExplicitVRLittleEndian if kind.compressed_bytes is None else JPEGBaseline8Bit
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = syntax
        paths.append(folder / f"{number:04d}.dcm")
        dcmwrite(paths[-1], ds, enforce_file_format=True)
    return paths


def rename_objects(paths: list[Path], round_number: int) -> None:
    """Give every object another SOP Instance UID of the same length, in place."""
    for number, path in enumerate(paths):
        uid = UID_PLACEHOLDER[:-20] + f"1{os.getpid():07d}{round_number:04d}{number:08d}"
        with path.open("r+b") as file:
            head = bytearray(file.read(2000))
            start = head.index(UID_PLACEHOLDER[:-20].encode())
            old = bytes(head[start : start + len(uid)])
            file.seek(0)
            file.write(head.replace(old, uid.encode()))


def send_rate(kind: Kind, aec: str, port: int, paths: list[Path], *, nagle: bool) -> float:
    """Return objects a second of one storescu process, start to end."""
    environment = {**os.environ, "TCP_NODELAY": "1"}
    if nagle:
        del environment["TCP_NODELAY"]
    begun = time.perf_counter()
    subprocess.run(
        ["storescu", "-R", kind.storescu_option, "-aet", "PACS", "-aec", aec, "127.0.0.1", str(port),
         *map(str, paths)],
        check=True,
        env=environment,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return len(paths) / (time.perf_counter() - begun)


def main() -> None:
    """Run the rounds and print the lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share", type=float, default=1.0, help="share of the objects that is sent")
    parser.add_argument("--folder", type=Path, default=None, help="where everything is written")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=arguments.folder)))
        node = NodeProcess(folder / "node", port=free_port(), pacs_port=free_port(), quiet_time_s=3600)
        orthanc = Orthanc(folder / "orthanc", node_port=node.port, aet="ORTHANC")
        stack.callback(node.stop)
        stack.callback(orthanc.stop)
        node.start("receive")
        orthanc.start()
        storescp_port = start_storescp(stack, folder)
        targets = {
            "node": ("ENDONODE", node.port),
            "orthanc": ("ORTHANC", orthanc.dicom_port),
            "storescp": ("ANY", storescp_port),
        }
        for kind in KINDS:
            paths = write_objects(folder / kind.name.replace(" ", "_"), kind)
            paths = paths[: max(1, int(len(paths) * arguments.share))]
            for nagle in (False, True):
                rates: dict[str, list[float]] = {name: [] for name in targets}
                for round_number in range(arguments.rounds):
                    rename_objects(paths, round_number + 100 * nagle)
                    for name, (aec, port) in targets.items():
                        rates[name].append(send_rate(kind, aec, port, paths, nagle=nagle))
                    shutil.rmtree(folder / "storescp")
                    (folder / "storescp").mkdir()
                print_line(kind, rates, nagle=nagle)


def start_storescp(stack: ExitStack, folder: Path) -> int:
    """Start storescp as in the notes on peers: forking, bit-preserving, large PDUs; return its port."""
    port = free_port()
    (folder / "storescp").mkdir()
    process = subprocess.Popen(
        [
            "storescp",
            "--fork",
            "+B",
            "-pdu",
            "131072",
            "-dhl",
            "+xa",
            "-od",
            str(folder / "storescp"),
            str(port),
        ],
        env={**os.environ, "TCP_NODELAY": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    stack.callback(process.wait)
    stack.callback(process.terminate)
    wait_for(
        "storescp",
        lambda: subprocess.run(["echoscu", "127.0.0.1", str(port)], check=False).returncode == 0,
        10,
    )
    return port


def print_line(kind: Kind, rates: dict[str, list[float]], *, nagle: bool) -> None:
    """Print medians and ratios as one JSON object."""
    medians = {name: statistics.median(values) for name, values in rates.items()}
    line = {
        "objects": kind.name,
        "sender": "as shipped (Nagle)" if nagle else "TCP_NODELAY=1",
        **{f"{name}_per_s": round(value, 1) for name, value in medians.items()},
        "node_to_orthanc": round(medians["node"] / medians["orthanc"], 2),
        "node_to_storescp": round(medians["node"] / medians["storescp"], 2),
    }
    print(json.dumps(line), flush=True)  # noqa: T201 - the benchmark's product


if __name__ == "__main__":
    main()
