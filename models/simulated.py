"""Simulated patients with mixed lesion share and correlated errors: where the ways to read a patient differ.

Public frames without patients, dealt into equal bags of one class, cannot rank them: there every frame shows
the patient's class, and errors are independent.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.counts import Flags, Floats
from models.grid import read_bags
from models.patient import DECISION, calibrate


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What the simulated frames show.

    Attributes
    ----------
    share
        Mean share of a patient's frames that show the lesion, of those with IBD; 0 to 1.
    concentration
        How alike the patients' shares are: each is Beta(share c, (1 - share) c); infinite for equal shares.
    lesion, normal
        Mean margin (logits) of a frame with and without a lesion.
    shared_sd, frame_sd
        Standard deviation of the margin's error that all frames of a patient share, and of each frame's own.
    """

    share: float
    concentration: float = np.inf
    lesion: float = 3.0
    normal: float = -3.0
    shared_sd: float = 0.0
    frame_sd: float = 2.0


def simulate(scenario: Scenario, *, patients: int, frames: int, seed: int) -> tuple[Floats, Flags]:
    """Return ``(patients, frames)`` probabilities of IBD and ``(patients,)`` labels, every other one IBD."""
    generator = np.random.default_rng(seed)
    labels = np.arange(patients) % 2 == 1
    shares = np.full(patients, scenario.share)
    if 0 < scenario.share < 1 and np.isfinite(scenario.concentration):
        alike = scenario.concentration
        shares = generator.beta(scenario.share * alike, (1 - scenario.share) * alike, patients)
    shown = (generator.random((patients, frames)) < shares[:, None]) & labels[:, None]
    errors = generator.normal(0, scenario.shared_sd, (patients, 1)) + generator.normal(
        0, scenario.frame_sd, (patients, frames)
    )
    margins = np.where(shown, scenario.lesion, scenario.normal) + errors
    return calibrate(margins, temperature=1.0, offset=0.0), labels


def read_by_rules(probabilities: Floats, *, threshold: float, top_k: int) -> dict[str, NDArray[np.int8]]:
    """Return ``(1, patients)`` readings by the mean, the largest probability and the patient rule."""
    rows = np.arange(probabilities.size).reshape(1, *probabilities.shape)
    by_rule = read_bags(probabilities.ravel(), rows, thresholds=[threshold], top_ks=[top_k])
    return {
        "mean": (probabilities.mean(axis=1) >= DECISION).astype(np.int8)[None],
        "max": (probabilities.max(axis=1) >= DECISION).astype(np.int8)[None],
        "rule": by_rule[..., 0, 0],
    }
