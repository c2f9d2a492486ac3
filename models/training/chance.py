"""What chance and leakage alone reach: said before any other figure.

A logistic regression on what the published trunk says of the frames, with labels permuted over patients, and
one on a 16 x 16 map of what is black in the view, with the true labels; out of fold both.
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from models.training.run import Frames

PENALTY = 0.01
"""The regression's inverse L2 penalty."""

PERMUTATIONS = 20
CELLS = 16
DARK = 24
"""Brightest channel up to which a pixel counts as black (`pipeline.clean.content_area`)."""


def chance_and_leakage(frames: Frames, embeddings: NDArray[np.floating]) -> dict[str, float]:
    """Return the AUC that permuted labels reach, its spread, and that of the view's black regions alone.

    `embeddings` are ``(N, d)``, of a network that has learnt from none of the frames.
    """
    names = [row.patient for row in frames.rows]
    firsts, patients = np.unique(names, return_index=True, return_inverse=True)[1:]
    labels = frames.labels == 1
    generator = np.random.default_rng(0)
    permuted = [
        _reached(embeddings, generator.permutation(labels[firsts])[patients], frames.folds)
        for _ in range(PERMUTATIONS)
    ]
    side = frames.views.shape[1] // CELLS
    dark = (frames.views.max(axis=3) <= DARK).reshape(-1, CELLS, side, CELLS, side).mean(axis=(2, 4))
    found = {
        "permuted_labels_auc_mean": float(np.mean(permuted)),
        "permuted_labels_auc_sd": float(np.std(permuted, ddof=1)),
        "dark_regions_alone_auc": _reached(dark.reshape(len(dark), -1), labels, frames.folds),
    }
    return {name: round(value, 4) for name, value in found.items()}


def _reached(features: NDArray[np.floating], labels: NDArray[np.bool_], folds: NDArray[np.int64]) -> float:
    margins = np.empty(len(labels))
    for fold in np.unique(folds):
        left_out = folds == fold
        line = make_pipeline(StandardScaler(), LogisticRegression(C=PENALTY, max_iter=5000))
        line.fit(features[~left_out], labels[~left_out])
        margins[left_out] = line.decision_function(features[left_out])
    return float(roc_auc_score(labels, margins))
