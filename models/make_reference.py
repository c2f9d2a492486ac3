"""Make the reference package: ``python -m models.make_reference --data DIR --out DIR``.

No network is trained. The trunk is ImageNet's MobileNetV2 as published; a logistic head is fitted on its
embeddings of the frames as the node sees them; the graph is quantised (8 bit, QDQ); temperature and decision
offset are fitted on what the *quantised* graph says. Every choice is made by leaving out whole folds of
pseudo-patients, and every figure is of frames whose fold took no part in any choice. Needs the extra
`reference`.
"""

import argparse
import csv
import hashlib
import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import simplejpeg
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.preprocessing import StandardScaler

from models.card import describe
from models.counts import Flags, Floats
from models.figures import bag_figures, frame_figures, patient_labels
from models.graph import SCALE, ZERO_POINT, batches, build_trunk, embed, normalise, quantise, set_head
from models.package import MANIFEST, MODEL
from models.patient import DECISION, calibrate
from pipeline.clean.cleaner import Cleaner
from pipeline.clean.crop import VIEW_SIDE
from pipeline.clean.recipe import DEFAULT
from pipeline.frame import CleanFrame, Frame, FrameSource, RejectedFrame
from pipeline.tools import open_cleaner

CARD = "MODEL_CARD.md"
WEIGHTS = "weights/mobilenet_v2_imagenet_dequant_fp32.onnx"
LABELS = {"normal": False, "uc": True}
PENALTIES = (0.0003, 0.001, 0.003, 0.01, 0.03)
"""Candidates for the head's inverse L2 penalty C."""

CALIBRATION_FRAMES = 128
BAG_DRAWS = 300
PERMUTATIONS = 20
DARK = 24
"""Brightest channel up to which a pixel counts as black (`pipeline.clean.content_area`)."""


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """The cleaned frames: views ``(N, rows, columns, 3)``, and a label, patient, fold and class each."""

    views: NDArray[np.uint8]
    labels: Flags
    patients: NDArray[np.int64]
    folds: NDArray[np.int64]
    kinds: tuple[str, ...]
    rejected: int
    digest: str


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """A fitted head: margin = embedding @ weights + bias, and (temperature, offset) for each twin."""

    weights: Floats
    bias: float
    penalty: float
    float_calibration: tuple[float, float]
    int8_calibration: tuple[float, float]

    def predict(self, embeddings: Floats, calibration: tuple[float, float]) -> Floats:
        """Return the calibrated probability of IBD for ``(N, d)`` embeddings."""
        temperature, offset = calibration
        return calibrate(embeddings @ self.weights + self.bias, temperature=temperature, offset=offset)


def fit_line(embeddings: Floats, labels: Flags, penalty: float) -> tuple[Floats, float]:
    """Fit the standardised logistic regression; return weights and bias for embeddings as they come."""
    scaler = StandardScaler().fit(embeddings)
    fitted = LogisticRegression(C=penalty, max_iter=5000).fit(scaler.transform(embeddings), labels)
    weights = fitted.coef_[0] / scaler.scale_
    return weights, float(fitted.intercept_[0] - scaler.mean_ @ weights)


def fit_calibration(margins: Floats, labels: Flags) -> tuple[float, float]:
    """Return (temperature, offset) of least log loss for (margin + offset) / temperature."""
    fitted = LogisticRegression(C=np.inf).fit(margins[:, None], labels)
    slope, intercept = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    return 1 / slope, intercept / slope


def left_out_margins(
    fitted_on: Floats, given: Floats, labels: Flags, folds: NDArray[np.int64], penalty: float
) -> Floats:
    """Return ``(N,)`` margins of `given`, each fold's by a line fitted on the other folds of `fitted_on`."""
    margins = np.empty(len(labels))
    for fold in np.unique(folds):
        weights, bias = fit_line(fitted_on[folds != fold], labels[folds != fold], penalty)
        margins[folds == fold] = given[folds == fold] @ weights + bias
    return margins


def fit_head(floats: Floats, int8s: Floats, labels: Flags, folds: NDArray[np.int64]) -> Head:
    """Choose C and both calibrations on margins of left-out folds; then fit the line on all frames given."""

    def loss(penalty: float) -> float:
        margins = left_out_margins(floats, floats, labels, folds, penalty)
        temperature, offset = fit_calibration(margins, labels)
        return float(log_loss(labels, calibrate(margins, temperature=temperature, offset=offset)))

    penalty = min(PENALTIES, key=loss)
    calibrations = [
        fit_calibration(left_out_margins(floats, given, labels, folds, penalty), labels)
        for given in (floats, int8s)
    ]
    return Head(*fit_line(floats, labels, penalty), penalty, *calibrations)


def load_frames(data: Path, cleaner: Cleaner) -> Frames:
    """Decode and clean every frame of ``pseudo_patients.csv`` as the node does; count what is rejected."""
    table = data / "pseudo_patients.csv"
    digest = hashlib.sha256(table.read_bytes())
    with table.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))

    def clean(row: dict[str, str]) -> tuple[bytes, CleanFrame | RejectedFrame]:
        content = (data / row["path"]).read_bytes()
        pixels = simplejpeg.decode_jpeg(content, colorspace="RGB")
        frame = Frame(pixels=pixels, source=FrameSource(row["path"], 1))
        return hashlib.sha256(content).digest(), cleaner.clean(frame)

    kept: list[dict[str, str]] = []
    views: list[NDArray[np.uint8]] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for row, (of_file, cleaned) in zip(rows, pool.map(clean, rows), strict=True):
            digest.update(of_file)
            if isinstance(cleaned, CleanFrame):
                kept.append(row)
                views.append(cleaned.view)
    return Frames(
        views=np.stack(views),
        labels=np.array([LABELS[row["label"]] for row in kept]),
        patients=np.unique([row["pseudo_patient_id"] for row in kept], return_inverse=True)[1],
        folds=np.array([int(row["cv_fold"]) for row in kept]),
        kinds=tuple(row["class"] for row in kept),
        rejected=len(rows) - len(kept),
        digest=digest.hexdigest(),
    )


def calibration_views(views: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Draw the frames whose activations set the quantiser's ranges."""
    drawn = np.random.default_rng(0).permutation(len(views))[:CALIBRATION_FRAMES]
    return views[np.sort(drawn)]


def predict_left_out(frames: Frames, trunk: onnx.ModelProto, floats: Floats) -> tuple[Floats, Floats]:
    """Return every frame's probability by the float and the int8 twin that never saw its fold."""
    by_float, by_int8 = np.empty(len(frames.labels)), np.empty(len(frames.labels))
    for fold in np.unique(frames.folds):
        out = frames.folds == fold
        int8s = embed(quantise(trunk, calibration_views(frames.views[~out])), batches(frames.views))
        head = fit_head(floats[~out], int8s[~out], frames.labels[~out], frames.folds[~out])
        by_float[out] = head.predict(floats[out], head.float_calibration)
        by_int8[out] = head.predict(int8s[out], head.int8_calibration)
    return by_float, by_int8


def chance_and_leakage(frames: Frames, floats: Floats, penalty: float) -> dict[str, float]:
    """Return the AUC that labels permuted over patients reach, and that of the view's black regions alone."""

    def reached(features: Floats, labels: Flags, penalty: float) -> float:
        return float(
            roc_auc_score(labels, left_out_margins(features, features, labels, frames.folds, penalty))
        )

    generator = np.random.default_rng(0)
    labels = patient_labels(frames.labels, frames.patients)
    permuted = [
        reached(floats, generator.permutation(labels)[frames.patients], penalty) for _ in range(PERMUTATIONS)
    ]
    cells, side = 16, VIEW_SIDE // 16
    dark = (frames.views.max(axis=3) <= DARK).reshape(-1, cells, side, cells, side).mean(axis=(2, 4))
    found: dict[str, Any] = {
        "permuted_labels_auc_mean": np.mean(permuted),
        "permuted_labels_auc_sd": np.std(permuted, ddof=1),
        "dark_regions_alone_auc": reached(dark.reshape(-1, cells * cells), frames.labels, 1.0),
    }
    return {name: round(float(value), 4) for name, value in found.items()}


def measure(frames: Frames, trunk: onnx.ModelProto, floats: Floats, penalty: float) -> dict[str, Any]:
    """Return every figure of the manifest and the card."""
    by_float, by_int8 = predict_left_out(frames, trunk, floats)
    change = np.abs(by_int8 - by_float)
    recalled = (by_int8 >= DECISION) == frames.labels
    kinds = np.array(frames.kinds)
    return {
        "protocol": "Out of fold by cv_fold; C, temperature and offset chosen on the other folds; each "
        "fold's graph quantised by itself; 95 % intervals by bootstrap over pseudo-patients",
        "frames": len(frames.labels),
        "frames_rejected": frames.rejected,
        "pseudo_patients": int(frames.patients.max()) + 1,
        "chance_and_leakage": chance_and_leakage(frames, floats, penalty),
        "frame_int8": frame_figures(by_int8, frames.labels, frames.patients),
        "frame_float": frame_figures(by_float, frames.labels, frames.patients),
        "frame_recall_int8": {
            kind: {
                "frames": int((kinds == kind).sum()),
                "recall": round(float(recalled[kinds == kind].mean()), 4),
            }
            for kind in sorted(set(frames.kinds))
        },
        "int8_less_float": {
            "mean_absolute_change": round(float(change.mean()), 4),
            "largest_change": round(float(change.max()), 4),
            "frames_flipped": int(((by_int8 >= DECISION) != (by_float >= DECISION)).sum()),
        },
        "bags_of_3_int8": bag_figures(by_int8, frames.labels, frames.patients, bag=3, draws=BAG_DRAWS),
        "whole_pseudo_patients_int8": bag_figures(by_int8, frames.labels, frames.patients, bag=None, draws=1),
    }


def make(data: Path, out: Path) -> None:
    """Write ``model.onnx``, ``MODEL_CARD.md`` and ``model.json`` to `out`; same data, same bytes."""
    frames = load_frames(data, open_cleaner(DEFAULT))
    trunk = build_trunk(data / WEIGHTS)
    floats = embed(trunk, map(normalise, batches(frames.views)))
    chosen = calibration_views(frames.views)
    model = quantise(trunk, chosen)
    head = fit_head(floats, embed(model, batches(frames.views)), frames.labels, frames.folds)
    metrics = measure(frames, trunk, floats, head.penalty)
    set_head(model, head.weights, head.bias)
    temperature, offset = head.int8_calibration
    manifest: dict[str, Any] = {
        "format": 1,
        "task": "classification",
        "name": "endonode-reference-mobilenetv2",
        "version": "0.1.0",
        "classes": ["healthy", "ibd"],
        "positive": "ibd",
        "input": {
            "rows": VIEW_SIDE, "columns": VIEW_SIDE, "layout": "NHWC", "dtype": "uint8", "colour": "RGB",
            "scale": SCALE, "zero_point": ZERO_POINT,
        },
        "outputs": ["logits", "cam", "embedding"],
        "vote_mode": "probabilities",
        "calibration": {"temperature": temperature, "offset": offset},
        "preprocessing": {"recipe_digest": DEFAULT.digest},
        "quantisation": {
            "recipe": "static QDQ, min-max; U8 affine activations, S8 symmetric weights per output channel; "
            "head in float",
            "calibration_frames": len(chosen),
            "onnxruntime": ort.__version__,
        },
        "training_data": {
            "name": "HyperKvasir, matched_256, pseudo_patients.csv",
            "sha256": frames.digest,
            "head_inverse_penalty": head.penalty,
            "weights_sha256": hashlib.sha256((data / WEIGHTS).read_bytes()).hexdigest(),
        },
        "metrics": metrics,
    }  # fmt: skip
    files = {MODEL: model.SerializeToString(deterministic=True), CARD: describe(manifest).encode()}
    manifest["files"] = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    files[MANIFEST] = (json.dumps(manifest, indent=1) + "\n").encode()
    out.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (out / name).write_bytes(content)


def main() -> None:
    """Run the command."""
    logging.disable(logging.WARNING)  # the quantiser recommends a preprocessing that changes nothing here
    parser = argparse.ArgumentParser(
        prog="python -m models.make_reference", description="Make the reference package."
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of frames, table and weights")
    parser.add_argument("--out", type=Path, required=True, help="folder that the package is written to")
    arguments = parser.parse_args()
    make(arguments.data, arguments.out)


if __name__ == "__main__":
    main()
