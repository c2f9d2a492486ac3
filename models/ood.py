"""How foreign a frame is to what a network has learnt: rising scores, a threshold on them, their figures."""

import numpy as np
from numpy.typing import NDArray

from models.counts import Floats
from models.errors import ModelError

RETENTION = 0.95
"""Share of known frames that the threshold keeps; the usual point of comparison (FPR at 95 % TPR)."""

LEVELS = 127

Embeddings = NDArray[np.floating] | NDArray[np.int8]


def energy(logits: NDArray[np.floating], *, temperature: float = 1.0) -> Floats:
    """Return ``(N,)`` energies, -T logsumexp(z / T), of ``(N, classes)`` logits (Liu et al. 2020, eq. 4).

    >>> energy(np.array([[0.0, 0.0], [1000.0, 0.0]])).round(3).tolist()
    [-0.693, -1000.0]
    """
    energies: Floats = -temperature * np.logaddexp.reduce(logits.astype(np.float64) / temperature, axis=1)
    return energies


def normalise(embeddings: Embeddings) -> Floats:
    """Return ``(N, d)`` embeddings at length 1; zeros stay zeros."""
    values: Floats = embeddings.astype(np.float64)
    values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return values


def distances(embeddings: Embeddings, bank: Embeddings, *, k: int) -> Floats:
    """Return ``(N,)`` distances to the k-th nearest of a bank, all at length 1 (Sun et al. 2022, section 3).

    Parameters
    ----------
    embeddings
        ``(N, d)``. None of their patients may be in the bank when a threshold is to be chosen on the result.
    bank
        ``(M, d)``, of known frames; whole or from `reduce_bank`.

    Raises
    ------
    ModelError
        k is not between 1 and M.
    """
    if not 1 <= k <= len(bank):
        raise ModelError(
            f"nearest neighbours: k from 1 to the bank's {len(bank)} was expected, {k} was found"
        )
    similarities = normalise(embeddings) @ normalise(bank).T
    nearest = np.partition(similarities, -k, axis=1)[:, -k]
    return np.sqrt(np.maximum(2 - 2 * nearest, 0))


def reduce_bank(embeddings: NDArray[np.floating], size: int, *, seed: int = 0) -> NDArray[np.int8]:
    """Return ``(size, d)`` of the embeddings, drawn at random, in 8 bits; its k is a share of the whole's.

    Each row is scaled to its own largest value, which lengths of 1 undo. Capsule against left-out colon
    frames, ImageNet embeddings, k = 5: AUROC 0.849 with the whole bank of about 870, 0.882 with 64 or 256 of
    it at random; with as many of k-centre greedy, which prefers what is odd, 0.846 and 0.861.
    """
    chosen = np.random.default_rng(seed).permutation(len(embeddings))[:size]
    kept = normalise(embeddings[chosen])
    kept *= LEVELS / np.maximum(np.abs(kept).max(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return np.rint(kept).astype(np.int8)


def choose_threshold(known: Floats, *, retention: float = RETENTION) -> float:
    """Return the least score up to which at least `retention` of the known frames' ``(N,)`` scores lie.

    A frame is foreign above it. No foreign frame is needed, so that none is fitted to.
    """
    return float(np.quantile(known, retention, method="inverted_cdf"))


def auroc(known: Floats, foreign: Floats) -> float:
    """Return the chance that a foreign frame scores above a known one, ties counted half.

    >>> auroc(np.array([0.0, 1.0]), np.array([1.0, 2.0]))
    0.875
    """
    ordered = np.sort(known)
    ranks = np.searchsorted(ordered, foreign, "left") + np.searchsorted(ordered, foreign, "right")
    return float(ranks.mean() / (2 * len(known)))


def kept_share(foreign: Floats, threshold: float) -> float:
    """Return the share of foreign frames that pass as known: FPR95 at the threshold of 95 % retention."""
    return float((foreign <= threshold).mean())
