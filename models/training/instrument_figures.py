"""How well instruments are found: on composites held out, on the few real pairs, and where there is none."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from models.training.composites import LEAST_SHARE, compose
from models.training.scenery import PAIR_FOLDERS, Mask, Scene, Shape, read_frame, read_mask
from pipeline.clean.instruments import InstrumentDetector
from pipeline.frame import Pixels

TEST_ROWS, TEST_COLUMNS = 384, 448
"""Twice the network's input: what is lost by shrinking a frame and growing its mask counts."""

LARGE_SHARE = 0.02
"""Masked share of an instrument-free frame that counts as a false alarm."""


def dice(found: Mask, truth: Mask) -> float:
    """Return twice the intersection over the sum of areas; 1 where both are empty."""
    areas = int(found.sum() + truth.sum())
    return 2 * int((found & truth).sum()) / areas if areas else 1.0


def held_out_composites(
    scenes: Sequence[Scene], shapes: Sequence[Shape], *, count: int
) -> Iterator[tuple[Pixels, Mask]]:
    """Yield `count` frames with an instrument of the test families; a function of its arguments alone."""
    generator = np.random.default_rng(1)
    made = 0
    while made < count:
        scene = scenes[int(generator.integers(len(scenes)))]
        frame, truth = compose(scene, shapes[int(generator.integers(len(shapes)))], "test", generator)
        if truth.mean() >= LEAST_SHARE:
            made += 1
            yield frame, truth


def composite_figures(
    detect: InstrumentDetector, composites: Sequence[tuple[Pixels, Mask]]
) -> dict[str, Any]:
    """Return Dice over frames, and Dice of all pixels pooled."""
    found = [detect(frame) for frame, _ in composites]
    each = np.array([dice(mask, truth) for mask, (_, truth) in zip(found, composites, strict=True)])
    pooled = dice(
        np.concatenate([m.ravel() for m in found]), np.concatenate([t.ravel() for _, t in composites])
    )
    return {
        "frames": len(each),
        "dice_mean": _rounded(each.mean()),
        "dice_standard_error": _rounded(each.std(ddof=1) / np.sqrt(len(each))),
        "dice_median": _rounded(np.median(each)),
        "dice_10th_percentile": _rounded(np.percentile(each, 10)),
        "dice_pooled": _rounded(pooled),
        "missed": int((each == 0).sum()),
    }


def free_figures(detect: InstrumentDetector, files: Sequence[Path]) -> dict[str, Any]:
    """Return what is masked of real frames without an instrument, at the size they have."""
    shares = np.array([detect(read_frame(file)).mean() for file in files])
    return {
        "frames": len(shares),
        "masked_share_median": _rounded(np.median(shares)),
        "masked_share_mean": _rounded(shares.mean()),
        "frames_above_2_percent": _rounded((shares > LARGE_SHARE).mean()),
        "frames_with_any": _rounded((shares > 0).mean()),
    }


def real_pairs(data: Path) -> list[tuple[str, Path, Path]]:
    """Return (kind, image, mask) of the pairs that are for testing only."""
    whole, crops = (data / folder for folder in PAIR_FOLDERS)
    pairs = [
        (
            "true" if file.stem.startswith("kvasirinstrument") else "hand-drawn",
            file,
            whole.parent / "masks" / f"{file.stem}.png",
        )
        for file in sorted(whole.iterdir())
    ]
    return pairs + [
        ("figure crop", file, file.with_name(file.name.replace("_image", "_mask")))
        for file in sorted(crops.glob("*_image.png"))
    ]


def pair_figures(detect: InstrumentDetector, data: Path) -> dict[str, Any]:
    """Return Dice of each real pair, and the median."""
    each = []
    for kind, image, mask in real_pairs(data):
        pixels = np.ascontiguousarray(np.asarray(cv2.imread(str(image)), np.uint8)[..., ::-1])
        each.append(
            {"kind": kind, "name": image.stem, "dice": _rounded(dice(detect(pixels), read_mask(mask)))}
        )
    values: NDArray[np.float64] = np.array([pair["dice"] for pair in each])
    return {"pairs": each, "dice_median": _rounded(np.median(values)), "dice_mean": _rounded(values.mean())}


def _rounded(value: Any) -> float:
    return round(float(value), 4)
