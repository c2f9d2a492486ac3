"""Make the instrument package: ``python -m models.training.instruments --data DIR --out DIR``.

A small U-Net is trained on composites (`models.training.composites`), quantised, and measured on what it
never saw: masks, scenes, textures and blending held out, the few real pairs, and real frames without
instruments.
Needs the extra `train`.
"""

import argparse
import hashlib
import json
import logging
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import nn

from models.training.export import SCALE, ZERO_POINT, last_layers, quantise, take_frames, to_onnx
from models.training.fit import Epoch, Schedule, fit
from models.training.instrument_card import describe
from models.training.instrument_figures import (
    TEST_COLUMNS,
    TEST_ROWS,
    composite_figures,
    free_figures,
    held_out_composites,
    pair_figures,
)
from models.training.scenery import (
    MASK_FOLDER,
    Scene,
    Shape,
    load_scenes,
    load_shapes,
    make_scene,
    make_shape,
    read_frame,
    read_mask,
)
from models.training.segmenter import BATCH, COLUMNS, ROWS, STEPS, batches, build_network, draw, objective
from pipeline.adapters.instrument_network import RESIZE, InstrumentNetwork
from pipeline.network_package import MANIFEST, MODEL

CARD = "MODEL_CARD.md"
HELD_OUT = "held_out.txt"
"""Names of the frames and masks that took no part in training, one a line."""

SEED = 0
CYCLES = (40, 16, 12)
"""Epochs of each cycle: in each the learning rate falls as a cosine (Loshchilov and Hutter 2017)."""

RATE, WEIGHT_DECAY = 3e-3, 1e-3
WARM_UP = 0.03
"""Share of a cycle over which the learning rate rises first."""

CALIBRATION_FRAMES = 128
COMPOSITES = 400

DECISION = {"logit": 0.0, "peak_logit": 2.5, "least_share": 0.003}
"""A pixel is an instrument above `logit`; a piece counts if its peak reaches `peak_logit` and its area
`least_share` of the frame. Validation part, about 200 composites of training families and 117 plain frames:
a peak of 1 / 2.5 / 3.5 gives Dice 0.922 / 0.916 / 0.906, and 5.1 / 3.4 / 2.6 % of frames masked above 2 %."""


def rate(epoch: int) -> float:
    """Return the factor on the learning rate; every cycle starts at half the rate of the one before."""
    height = 1.0
    for epochs in CYCLES[:-1]:
        if epoch < epochs:
            break
        epoch, height = epoch - epochs, height / 2
    else:
        epochs = CYCLES[-1]
    done = epoch / epochs
    rise = min(1.0, (done + 0.1 * WARM_UP) / WARM_UP)
    return height * (rise * (0.5 + 0.5 * math.cos(math.pi * done)) + 1e-3)


def train(
    scenes: Sequence[Scene], shapes: Sequence[Shape], *, epochs: int, checkpoint: Path | None
) -> nn.Module:
    """Return the network trained on the parts' training scenes and shapes."""
    torch.manual_seed(SEED)
    model = build_network()
    fit(
        model,
        lambda epoch: batches(scenes, shapes, epoch=epoch, seed=SEED),
        objective=objective,
        optimiser=torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=WEIGHT_DECAY),
        schedule=Schedule(epochs, rate, SEED),
        callbacks=[_tell],
        checkpoint=checkpoint,
    )
    return model


def _tell(epoch: Epoch) -> None:
    print(f"epoch {epoch.number + 1}: loss {epoch.loss:.4f}", flush=True)  # noqa: T201 (a command's progress)


def to_int8(graph: onnx.ModelProto, scenes: Sequence[Scene], shapes: Sequence[Shape]) -> onnx.ModelProto:
    """Return the 8-bit twin, its ranges taken from composites of the training part."""
    generator = np.random.default_rng((SEED, 1))
    frames = np.stack([draw(scenes, shapes, generator)[0] for _ in range(CALIBRATION_FRAMES)])
    return quantise(graph, frames, tail=last_layers(graph))


def write_package(out: Path, manifest: dict[str, Any], files: dict[str, bytes]) -> None:
    """Write a package whose manifest vouches for `files`."""
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    out.mkdir(parents=True, exist_ok=True)
    content = (json.dumps({**manifest, "files": digests}, indent=1) + "\n").encode()
    for name, written in {**files, MANIFEST: content}.items():
        (out / name).write_bytes(written)


def measure(
    int8: InstrumentNetwork, floating: InstrumentNetwork, data: Path, held_out: Sequence[str]
) -> dict[str, Any]:
    """Return every figure of the manifest and the card."""
    scenes = [
        make_scene(name, "test", read_frame(data / name), rows=TEST_ROWS, columns=TEST_COLUMNS)
        for name in held_out
        if name.endswith(".jpg")
    ]
    shapes = [
        make_shape(name, "test", read_mask(data / name), rows=TEST_ROWS, columns=TEST_COLUMNS)
        for name in held_out
        if name.endswith(".png")
    ]
    composites = list(held_out_composites(scenes, shapes, count=COMPOSITES))
    return {
        "protocol": f"Composites of {TEST_ROWS} x {TEST_COLUMNS} of held-out masks ({len(shapes)}), scenes "
        f"({len(scenes)}), textures and blending; real pairs as they are; real frames without instruments at "
        "their own size. Everything through the adapter that ships, in source geometry",
        "composites_int8": composite_figures(int8, composites),
        "composites_float": composite_figures(floating, composites),
        "real_pairs_int8": pair_figures(int8, data),
        "real_pairs_float": pair_figures(floating, data),
        "instrument_free_int8": free_figures(int8, [data / scene.name for scene in scenes]),
        "capsule_int8": free_figures(int8, sorted((data / "images/crohnipi").rglob("*.jpg"))),
    }


def make(data: Path, out: Path, *, epochs: int, checkpoint: Path | None = None) -> None:
    """Write the package to `out`; same data, machine and number of threads, same bytes."""
    scenes, shapes = (
        load_scenes(data, rows=ROWS, columns=COLUMNS),
        load_shapes(data, rows=ROWS, columns=COLUMNS),
    )
    seen = [scene for scene in scenes if scene.part == "train"]
    drawn = [shape for shape in shapes if shape.part == "train"]
    model = train(seen, drawn, epochs=epochs, checkpoint=checkpoint)
    graph = to_onnx(model, rows=ROWS, columns=COLUMNS)
    held_out = [scene.name for scene in scenes if scene.part == "test"]
    held_out += [f"{MASK_FOLDER}/{shape.name}.png" for shape in shapes if shape.part == "test"]
    manifest: dict[str, Any] = {
        "format": 1,
        "task": "segmentation",
        "name": "endonode-instruments-unet",
        "version": "0.1.0",
        "classes": ["instrument"],
        "input": {
            "rows": ROWS, "columns": COLUMNS, "layout": "NHWC", "dtype": "uint8", "colour": "RGB",
            "scale": SCALE, "zero_point": ZERO_POINT,
        },
        "outputs": ["logits"],
        "decision": DECISION,
        "preprocessing": {"resize": RESIZE},
        "quantisation": {
            "recipe": "static QDQ, min-max; U8 affine activations, S8 symmetric weights per output channel; "
            "last layer in float",
            "calibration_frames": CALIBRATION_FRAMES,
            "onnxruntime": ort.__version__,
        },
        "training_data": {
            "name": "masks of Kvasir-Instrument on frames of HyperKvasir and Kvasir-SEG, composited",
            "sha256": _digest(scenes, shapes),
            "scenes": len(seen),
            "masks": len(drawn),
            "epochs": epochs,
            "frames_drawn": epochs * STEPS * BATCH,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "torch": torch.__version__.partition("+")[0],
        },
    }  # fmt: skip
    files = {
        MODEL: to_int8(graph, seen, drawn).SerializeToString(deterministic=True),
        HELD_OUT: "".join(f"{name}\n" for name in held_out).encode(),
    }
    with tempfile.TemporaryDirectory() as folder:
        twins = Path(folder) / "int8", Path(folder) / "float"
        as_float = take_frames(graph, rows=ROWS, columns=COLUMNS).SerializeToString()
        for twin, content in zip(twins, (files[MODEL], as_float), strict=True):
            write_package(twin, manifest, {MODEL: content})
        metrics = measure(InstrumentNetwork(twins[0]), InstrumentNetwork(twins[1]), data, held_out)
    manifest["metrics"] = metrics
    files[CARD] = describe(manifest).encode()
    write_package(out, manifest, files)


def _digest(scenes: Sequence[Scene], shapes: Sequence[Shape]) -> str:
    """Return one SHA-256 of all that was loaded: names, parts and pixels."""
    digest = hashlib.sha256()
    for scene in scenes:
        digest.update(f"{scene.name} {scene.part}\n".encode() + scene.pixels.tobytes())
    for shape in shapes:
        digest.update(f"{shape.name} {shape.part}\n".encode() + shape.mask.tobytes())
    return digest.hexdigest()


def main() -> None:
    """Run the command."""
    logging.disable(logging.WARNING)  # the quantiser recommends a preprocessing that changes nothing here
    parser = argparse.ArgumentParser(
        prog="python -m models.training.instruments", description="Make the instrument package."
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of frames and masks")
    parser.add_argument("--out", type=Path, required=True, help="folder that the package is written to")
    parser.add_argument("--epochs", type=int, default=sum(CYCLES), help="epochs of training")
    parser.add_argument("--checkpoint", type=Path, help="file that an interrupted training goes on from")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch; they change the last bits")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    make(arguments.data, arguments.out, epochs=arguments.epochs, checkpoint=arguments.checkpoint)


if __name__ == "__main__":
    main()
