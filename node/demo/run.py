"""The demo: a node of its own and a stand-in archive on loopback, one study there, its result back."""

import datetime as dt
import json
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom
import typer
from pydicom.pixels.utils import pixel_array

from node.cli.tables import READINGS
from node.demo.archive import Archive
from node.demo.painting import paint_frame
from node.demo.wrapping import wrap
from node.dicom.scu import Outgoing, echo, send
from node.errors import NodeError
from node.listing import list_exams
from node.results.uids import derive_uid
from node.serving import open_node
from node.settings import Peer, Settings, load_settings
from pipeline.frame import Pixels

ARCHIVE_TITLE = "ARCHIVE"
DOCUMENTS = {"SR": "structured report", "KO": "key objects"}
PAINTED_FRAMES, BLURRED = 24, 9
"""How many are painted, and the one among them that the cleaning must reject."""
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff"})
QUIET_S = 3
READY_S, DONE_S, A_FRAME_S, STOP_S = 30.0, 120.0, 1.0, 20.0
"""Bounds on waiting: for the node to answer, for the result and a frame more of it, for the node to drain."""


def run_demo(frames: Path | None, out: Path) -> int:
    """Run it once and leave everything in a folder below `out`; returns the exit status.

    Raises
    ------
    NodeError
        The folder holds no images, or a step did not come to its end within its bound; the message says
        which and where the log is.
    """
    files = None if frames is None else _image_files(frames)
    folder = (out / dt.datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")).resolve()
    folder.mkdir(parents=True)
    settings = _write_settings(folder)
    port = settings.peers[0].port
    with Archive(ARCHIVE_TITLE, port, folder / "archive") as archive, _node(folder, settings):
        typer.echo(
            f"node {settings.ae_title} on port {settings.port}, archive {ARCHIVE_TITLE} on port {port}"
        )
        sent = _send_study(_frames(files), folder / "sent", archive, settings)
        typer.echo(f"sent {sent} images; the exam closes {QUIET_S} s after the last")
        exam = _wait_for_result(settings, DONE_S + A_FRAME_S * sent)
        if exam["state"] == "failed":
            raise NodeError(f"the exam failed at {exam['error']['step']}: {exam['error']['text']}")
        _report(exam, archive.results, folder)
    return 0


def _write_settings(folder: Path) -> Settings:
    node_port, archive_port = _free_ports()
    config = folder / "settings.toml"
    config.write_text(
        f"""\
ae_title = "ENDONODE"
port = {node_port}
storage_dir = {json.dumps(str(folder / "storage"))}
database_url = {json.dumps(f"sqlite:///{folder}/endonode.db")}
quiet_time_s = {QUIET_S}
min_free_bytes = 200_000_000
http_port = 0

[[peers]]
ae_title = "{ARCHIVE_TITLE}"
host = "127.0.0.1"
port = {archive_port}
receives_results = true
""",
        encoding="utf-8",
    )
    return load_settings(config)


def _free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]


@contextmanager
def _node(folder: Path, settings: Settings) -> Iterator[None]:
    """Run ``endonode serve`` beside us until the block ends; it is stopped in every case."""
    command = [sys.executable, "-P", "-m", "node", "serve", "--config", str(folder / "settings.toml")]
    log = folder / "node.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        _wait_until_ready(process, settings, log)
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], settings: Settings, log: Path) -> None:
    us, caller = _as_archive(settings)
    deadline = time.monotonic() + READY_S
    while True:
        try:
            return echo(us, caller)
        except NodeError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise NodeError(f"the node did not start; see {log}") from error
            time.sleep(0.2)


def _as_archive(settings: Settings) -> tuple[Peer, Settings]:
    """Return the node as the archive's peer, and the archive's own settings."""
    node = settings.peers[0].model_copy(update={"ae_title": settings.ae_title, "port": settings.port})
    return node, settings.model_copy(update={"ae_title": ARCHIVE_TITLE})


def _image_files(source: Path) -> list[Path]:
    files = sorted(file for file in source.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise NodeError(f"{source}: a folder of images (JPEG, PNG, TIFF, BMP) was expected, none was found")
    return files


def _frames(files: Sequence[Path] | None) -> Iterator[Pixels]:
    if files is None:
        for seed in range(PAINTED_FRAMES):
            clock = f"DEMO\n00:{seed // 6:02}:{seed % 6 * 10:02}"
            painted = paint_frame(seed, ulcers=seed % 3 > 0, instrument=seed % 7 == 0, text=clock)
            yield cv2.GaussianBlur(painted, (0, 0), 9).astype(np.uint8) if seed == BLURRED else painted
        return
    for file in files:
        bgr = cv2.imread(str(file), cv2.IMREAD_COLOR)
        if bgr is None:
            raise NodeError(f"{file}: cannot be read as an image")
        yield np.ascontiguousarray(bgr[..., ::-1], dtype=np.uint8)


def _send_study(frames: Iterator[Pixels], folder: Path, archive: Archive, settings: Settings) -> int:
    folder.mkdir()
    study, objects = derive_uid("demo", str(uuid.uuid4())), []
    for number, pixels in enumerate(frames, start=1):
        ds = wrap(
            pixels, patient_id="DEMO-0001", study_instance_uid=study, instance_number=number, jpeg_quality=90
        )
        path = folder / f"{number:04}.dcm"
        ds.save_as(path, enforce_file_format=True)
        archive.hold(ds)
        objects.append(Outgoing(ds.SOPInstanceUID, ds.SOPClassUID, path, ds.file_meta.TransferSyntaxUID))
    us, caller = _as_archive(settings)
    send(us, objects, caller, on_answer=lambda _uid, _status: None)
    return len(objects)


def _wait_for_result(settings: Settings, within_s: float) -> dict[str, Any]:
    """Return the exam once it is delivered or failed, saying each state that it passes through."""
    started, shown = time.monotonic(), ""
    with open_node(settings) as node:
        while time.monotonic() < started + within_s:
            for exam in list_exams(node):
                if exam["state"] != shown:
                    shown = exam["state"]
                    typer.echo(f"{time.monotonic() - started:5.1f} s  exam {exam['exam_id']}: {shown}")
                if shown in {"delivered", "failed"}:
                    return exam
            time.sleep(0.25)
    raise NodeError(f"no result within {within_s:.0f} s; the exam is {shown or 'not there'}")


def _report(exam: dict[str, Any], results: Sequence[Path], folder: Path) -> None:
    picture = folder / "secondary-capture.png"
    pages = [page for path in results for page in _pages(path)]
    cv2.imwrite(str(picture), _contact_sheet(pages)[..., ::-1])
    reading, counts = READINGS[exam["reading"]], exam["counts"]
    if exam["unpredicted_reason"]:
        reading += f" ({exam['unpredicted_reason'].replace('_', ' ')})"
    elif exam["probability"] is not None:
        reading += f", probability {exam['probability']:.2f}"
    typer.echo(f"\nreading            {reading}")
    typer.echo(f"frames             {counts['kept']} kept, {counts['rejected']} rejected")
    voted = sum(frame["voted"] for frame in exam["evidence"])
    typer.echo(
        f"evidence           {voted} voted of {len(exam['evidence'])} shown, t = {exam['t']}, k = {exam['k']}"
    )
    typer.echo(f"completeness       {exam['completeness']['verdict']}")
    for path in results:
        kind = DOCUMENTS.get(pydicom.dcmread(path, stop_before_pixels=True).Modality, "Secondary Capture")
        typer.echo(f"{kind:<17}  {path}")
    typer.echo(f"as a picture       {picture}")
    typer.echo(f"database           {folder / 'endonode.db'}")
    endonode = Path(sys.executable).with_name("endonode")
    typer.echo(f"look again         {endonode} exams --config {folder / 'settings.toml'}")
    typer.echo("Research use, not a diagnosis.")


def _pages(path: Path) -> list[Pixels]:
    ds = pydicom.dcmread(path)
    if "PixelData" not in ds:
        return []
    pixels = pixel_array(ds)
    return list(pixels) if pixels.ndim == 4 else [pixels]  # noqa: PLR2004 - (frames, rows, columns, 3)


def _contact_sheet(pages: Sequence[Pixels]) -> Pixels:
    """Lay pages out two in a row, at half size."""
    small = [cv2.resize(page, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for page in pages]
    small += [np.zeros_like(small[0])] * (len(small) % 2)
    rows = [np.hstack(small[start : start + 2]) for start in range(0, len(small), 2)]
    return np.asarray(np.vstack(rows), np.uint8)
