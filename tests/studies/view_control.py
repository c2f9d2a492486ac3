"""How much of a reading rests on borders and boxes: ``make view-control``.

One recipe, that of the reference package, one seed, five folds, last epoch, nothing chosen; what differs is
what the network is shown of the same frames:

cleaned_view
    What the node's own cleaning leaves: no border, no scope box, no text; about 141 of 256 pixels square.
uncleaned_crop
    The centre of the frame as it came, 152 x 176 pixels, as the data's own reference figures use it: a corner
    of the scope box and burnt-in marks at its left side are in it.
both_masked
    The same centre without the columns of the marks, and black on every frame wherever that frame, or a
    partner of the other class, is dark at its rim: what is masked says nothing of the class, and little of
    the field is lost. What the cleaned view lacks and this does not, the smaller field costs.

One JSON object; committed as docs/results/view-control.json.
"""

import argparse
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from models.figures import frame_figures
from models.patient import calibrate
from models.training.learner import keep_freed_memory, margins, read_frozen, train
from models.training.run import Frames, Plan, load_frames, read_plan
from models.training.train import build
from pipeline.clean.crop import VIEW_SIDE

ROWS, COLUMNS, UNMARKED = slice(64, 216), slice(40, 216), slice(52, 216)
DARK, LEAST, RIM = 24, 150, 3
"""Level below which a pixel is black; fewest pixels of a region at the rim; pixels of its soft edge."""

Mask = NDArray[np.bool_]
Pixels = NDArray[np.uint8]


def main() -> None:
    """Train on each kind of view, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="run folder that train wrote")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    keep_freed_memory()
    plan = read_plan(arguments.run)
    frames = load_frames(plan, arguments.run)
    whole = [np.asarray(Image.open(plan.root / row.path).convert("RGB")) for row in frames.rows]
    masks = _both_masks(np.stack([_dark_at_rim(frame) for frame in whole]), frames)
    shown = {
        "cleaned_view": frames.views,
        "uncleaned_crop": np.stack([_resize(frame[ROWS, COLUMNS]) for frame in whole]),
        "both_masked": np.stack(
            [
                _resize(np.where(mask[..., None], 0, frame)[ROWS, UNMARKED].astype(np.uint8))
                for frame, mask in zip(whole, masks, strict=True)
            ]
        ),
    }
    started = time.perf_counter()
    found: dict[str, Any] = {
        "protocol": "same recipe, seed 0, five folds, last epoch, uncalibrated; CI by bootstrap over "
        "pseudo-patients; dark_map: what is dark on a 16 x 16 map, alone, by logistic regression",
        "data_digest": frames.digest,
        "machine": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads",
        "masked_share": round(float(masks[:, ROWS, UNMARKED].mean()), 4),
        **{name: _read(views, frames, plan) for name, views in shown.items()},
    }
    found["minutes"] = round((time.perf_counter() - started) / 60, 1)
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    sys.stdout.write(json.dumps(found) + "\n")


def _read(views: Pixels, frames: Frames, plan: Plan) -> dict[str, Any]:
    network = build(plan)
    features = read_frozen(network, views, plan.settings)
    said = np.zeros(len(views))
    for fold in range(int(frames.folds.max()) + 1):
        asked = frames.folds == fold
        rows = torch.from_numpy(np.flatnonzero(~asked))
        tail = train(
            network, features[:, rows], frames.labels[~asked], plan.settings,
            epochs=plan.settings.epochs, seed=0,
        )  # fmt: skip
        said[asked] = margins(tail, features[0, torch.from_numpy(np.flatnonzero(asked))])
    labels = frames.labels == 1
    patients = np.unique([row.patient for row in frames.rows], return_inverse=True)[1]
    figures = frame_figures(calibrate(said, temperature=1.0, offset=0.0)[None], labels, patients)
    return {"auc": figures["auc"], "mcc": figures["mcc"], "dark_map_auc": _dark_map(views, frames)}


def _dark_map(views: Pixels, frames: Frames) -> float:
    """Return the AUC that the places of dark pixels have alone."""
    dark = (views.max(axis=3) < DARK).astype(np.float32)
    maps = np.stack([cv2.resize(each, (16, 16), interpolation=cv2.INTER_AREA).ravel() for each in dark])
    said = np.zeros(len(views))
    for fold in range(int(frames.folds.max()) + 1):
        asked = frames.folds == fold
        judge = LogisticRegression(C=0.1, max_iter=2000).fit(maps[~asked], frames.labels[~asked])
        said[asked] = judge.decision_function(maps[asked])
    return round(float(roc_auc_score(frames.labels, said)), 4)


def _dark_at_rim(frame: Pixels) -> Mask:
    """Return ``(rows, columns)``: the dark regions of a frame that touch its rim: border and scope box."""
    dark = (frame.max(axis=2) < DARK).astype(np.uint8)
    dark = cv2.morphologyEx(dark, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
    _, regions, facts, _ = cv2.connectedComponentsWithStats(dark)
    rows, columns = dark.shape
    at_rim = [
        number
        for number, (left, top, width, height, area) in enumerate(facts)
        if number and area >= LEAST
        and (left == 0 or top == 0 or left + width == columns or top + height == rows)
    ]  # fmt: skip
    kept = np.isin(regions, at_rim).astype(np.uint8)
    return cv2.dilate(kept, np.ones((2 * RIM + 1, 2 * RIM + 1), np.uint8)) > 0


def _both_masks(masks: Mask, frames: Frames) -> Mask:
    """Return each frame's mask together with that of a frame of the other class in its fold."""
    generator = np.random.default_rng(0)
    joined = masks.copy()
    for fold in range(int(frames.folds.max()) + 1):
        for label in (0, 1):
            own = np.flatnonzero((frames.folds == fold) & (frames.labels == label))
            others = np.flatnonzero((frames.folds == fold) & (frames.labels != label))
            joined[own] |= masks[generator.choice(others, len(own), replace=len(own) > len(others))]
    return joined


def _resize(pixels: Pixels) -> Pixels:
    return np.asarray(cv2.resize(pixels, (VIEW_SIDE, VIEW_SIDE), interpolation=cv2.INTER_LINEAR), np.uint8)


if __name__ == "__main__":
    main()
