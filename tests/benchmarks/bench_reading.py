"""How fast an exam is decoded, cleaned and read, beside the chain as it is written down first.

1000 frames of 1280x1024, JPEG in DICOM files, ResNet50 with random weights on both sides, the same steps on
both, the five questions of quality among them. Ours: the node's reader, which decodes, cleans and reads on
all cores, text by layout, the network in 8-bit integers. Beside it, frame by frame: Pillow, everything found
anew at full resolution, torch in float32 with all cores. The two take turns, since these machines' speed
wanders: a round is the whole exam by ours and evenly spaced frames of it by the naive chain, and both are
given a frame. One JSON line: medians over the rounds, and of their ratios also the least and the most.
"""

import argparse
import hashlib
import io
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import generate_frames
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from models.package import MANIFEST, MODEL, load_package
from models.training.export import SCALE, ZERO_POINT, export_twin
from models.training.learner import normalise
from models.training.network import Network, resnet50_network
from models.training.quantising import OUTPUTS, Quantising, quantise
from node.demo.wrapping import wrap
from node.frames import FrameReader, StoredImage
from node.settings import Settings
from pipeline.adapters.rapid_text import RapidText
from pipeline.clean.content_area import find_content_area
from pipeline.clean.crop import VIEW_SIDE, crop_view
from pipeline.clean.overlay import find_text
from pipeline.clean.quality import CLIPPED, COLOURLESS, SPECULAR
from pipeline.clean.recipe import Recipe
from tests.exam_frames import load_tissue, paint_exam

SIZE = (1280, 1024)
STEPS = {
    "text_off": ("content_area", "quality", "fill", "crop"),
    "text_on": ("content_area", "quality", "text", "fill", "crop"),
}
BARS = {"text_off": 6.0, "text_on": 8.0}
STUDY = "2.25.4711"


def make_network() -> Network:
    """Return ResNet50 with random weights whose activations are of a trained network's order."""
    torch.manual_seed(0)
    network = resnet50_network(2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        network.train()(torch.randn(8, 3, VIEW_SIDE, VIEW_SIDE))
    network.eval()
    return network


def write_package(folder: Path, network: Network, recipe: Recipe) -> None:
    """Write a package of the network in 8 bits, good for nothing but its speed."""
    folder.mkdir(parents=True)
    views = np.random.default_rng(0).integers(0, 256, (16, VIEW_SIDE, VIEW_SIDE, 3), dtype=np.uint8)
    twin = quantise(network, views, np.zeros(16, np.int64), Quantising(frames=16))
    graph = export_twin(twin, rows=VIEW_SIDE, columns=VIEW_SIDE, outputs=OUTPUTS).SerializeToString()
    (folder / MODEL).write_bytes(graph)
    manifest = {
        "format": 1, "task": "classification", "name": "random", "version": "0",
        "classes": ["healthy", "ibd"], "positive": "ibd",
        "input": {"rows": VIEW_SIDE, "columns": VIEW_SIDE, "layout": "NHWC", "dtype": "uint8",
                  "colour": "RGB", "scale": SCALE, "zero_point": ZERO_POINT},
        "outputs": list(OUTPUTS), "calibration": {"temperature": 1.0, "offset": 0.0},
        "preprocessing": {"recipe_digest": recipe.digest}, "metrics": {},
        "files": {MODEL: hashlib.sha256(graph).hexdigest()},
    }  # fmt: skip
    (folder / MANIFEST).write_text(json.dumps(manifest))


def write_exam(folder: Path, data: Path, count: int) -> list[StoredImage]:
    """Write the exam's DICOM files."""
    images = []
    for number, frame in enumerate(paint_exam(load_tissue(data), count).frames, 1):
        large = cv2.resize(frame, SIZE, interpolation=cv2.INTER_CUBIC).astype(np.uint8)
        ds = wrap(large, patient_id="P1", study_instance_uid=STUDY, instance_number=number, jpeg_quality=90)
        path = folder / f"{number:04d}.dcm"
        ds.save_as(path, enforce_file_format=True)
        meta = ds.file_meta
        images.append(StoredImage(number, str(ds.SOPInstanceUID), str(meta.TransferSyntaxUID), path))
    return images


def read_naively(image: StoredImage, network: Network, detector: RapidText | None) -> None:
    """Decode, clean and read one frame with nothing remembered."""
    (content,) = generate_frames(dcmread(image.path).PixelData, number_of_frames=1)
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    area = find_content_area(pixels)
    if area is None:
        raise ValueError("the benchmark's frames have content")
    ask_quality(pixels, area.mask.view(np.uint8))
    if detector is not None:
        hole = find_text(detector, pixels) & area.mask
        if hole.any():
            pixels = cv2.inpaint(pixels, hole.astype(np.uint8), 5, cv2.INPAINT_TELEA).astype(np.uint8)
    with torch.inference_mode():
        torch.softmax(network(normalise(crop_view(pixels, area.box)[None])).logits, 1)


def ask_quality(pixels: NDArray[np.uint8], mask: NDArray[np.uint8]) -> list[float]:
    """Return what `pipeline.clean.quality` asks of a frame, at full resolution, by OpenCV's own functions."""
    red, green, blue = cv2.split(pixels)
    palest, brightest = (op(op(red, green), blue) for op in (cv2.min, cv2.max))
    levels = [cv2.calcHist([each], [0], mask, [256], [0, 256]) for each in (palest, brightest)]
    rim = np.ones((11, 11), np.uint8)
    focus = (cv2.erode(mask, rim) > 0) & (cv2.dilate(green, rim) < SPECULAR)
    laplacian = cv2.Laplacian(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.CV_64F)
    return [
        levels[0][COLOURLESS:].sum() / levels[0].sum(),
        levels[1][CLIPPED:].sum() / levels[1].sum(),
        float(np.searchsorted(levels[1].cumsum(), levels[1].sum() / 2)),
        float(cv2.meanStdDev(pixels, mask=mask)[1].mean()),
        float(cv2.meanStdDev(laplacian, mask=focus.astype(np.uint8))[1][0, 0] ** 2),
    ]


def run(
    images: list[StoredImage], network: Network, folder: Path, side: str, rounds: int, naive_frames: int
) -> dict[str, Any]:
    """Time both chains over the exam, in turn."""
    recipe = Recipe(steps=STEPS[side])
    write_package(folder / side, network, recipe)
    reader = FrameReader(load_package(folder / side, recipe), recipe, Settings())
    cores = os.cpu_count() or 1
    detector = RapidText(threads=cores) if side == "text_on" else None
    ours, naive = [], []
    reader.read(images[:8])
    read_naively(images[0], network, detector)
    for number in range(rounds):
        started = time.perf_counter()
        read = reader.read(images)
        ours.append(1000 * (time.perf_counter() - started) / len(images))
        chosen = images[number :: max(1, len(images) * rounds // naive_frames)]
        cv2.setNumThreads(cores)
        started = time.perf_counter()
        for image in chosen:
            read_naively(image, network, detector)
        naive.append(1000 * (time.perf_counter() - started) / len(chosen))
        cv2.setNumThreads(1)
    reader.close()
    ratios = sorted(slow / fast for slow, fast in zip(naive, ours, strict=True))
    confirmed = sum(e.reason == "known_text" for each in read for e in each.ledger if e.step == "text")
    return {
        "steps": STEPS[side],
        "rounds": rounds,
        "ours_ms_a_frame": round(statistics.median(ours), 2),
        "naive_ms_a_frame": round(statistics.median(naive), 2),
        "naive_frames_a_round": len(chosen),
        "ratio": round(statistics.median(ratios), 2),
        "ratio_least_most": [round(ratios[0], 2), round(ratios[-1], 2)],
        "bar": BARS[side],
        "frames_read": sum(each.prediction is not None for each in read),
        "frames_confirmed": confirmed,
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--naive-frames", type=int, default=150, help="of all rounds together")
    arguments = parser.parse_args()
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    data = Path(os.environ.get("ENDONODE_DATA", default))
    if not load_tissue(data, 1):
        sys.exit(f"{data}: real frames were expected, none was found; set ENDONODE_DATA")
    cv2.setNumThreads(1)
    network = make_network()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "exam").mkdir()
        images = write_exam(folder / "exam", data, arguments.frames)
        result = {
            "benchmark": "reading",
            "machine": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "frames": len(images),
            **{
                side: run(images, network, folder, side, arguments.rounds, arguments.naive_frames)
                for side in STEPS
            },
        }
    print(json.dumps(result))  # noqa: T201 - the result


if __name__ == "__main__":
    main()
