"""Simulated patients with mixed lesion share and correlated errors: where the ways to read a patient differ.

Public frames without patients, dealt into equal bags of one class, cannot rank them: there every frame shows
the patient's class, and errors are independent.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from models.counts import Flags, Floats, measures
from models.figures import Readings
from models.grid import average_bags, count_calls, largest_of_bags, read_bags
from models.patient import DECISION, calibrate

SHARES = tuple(tenth / 10 for tenth in range(1, 11))
"""Of a patient's frames with the lesion, in `simulated_figures`."""

PATIENTS, FRAMES = 4000, 15
"""That many patients leave an MCC a standard error of 0.016 at most."""


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


def read_by_rules(probabilities: Floats, *, threshold: float, top_k: int) -> dict[str, Readings]:
    """Return ``(1, patients)`` readings by the mean, the largest probability and the patient rule."""
    given, rows = probabilities.ravel(), np.arange(probabilities.size).reshape(1, *probabilities.shape)
    return {
        "mean": (average_bags(given, rows) >= DECISION).astype(np.int8),
        "max": (largest_of_bags(given, rows) >= DECISION).astype(np.int8),
        "rule": read_bags(given, rows, thresholds=[threshold], top_ks=[top_k])[..., 0, 0],
    }


def simulated_figures(*, threshold: float, top_k: int) -> dict[str, Any]:
    """Return the MCC of each rule at each share of frames with the lesion; Unpredicted is wrong.

    Errors of one patient's frames are correlated: of their variance, 4 + 1, one part in five is shared.
    """
    by_share = {}
    for share in SHARES:
        scenario = Scenario(share=share, concentration=5.0, shared_sd=1.0)
        probabilities, labels = simulate(scenario, patients=PATIENTS, frames=FRAMES, seed=0)
        read = read_by_rules(probabilities, threshold=threshold, top_k=top_k)
        by_share[str(share)] = {
            **{
                name: round(float(measures(*count_calls(readings, labels))["mcc"][0]), 4)
                for name, readings in read.items()
            },
            "unpredicted": round(float((read["rule"] < 0).mean()), 4),
        }
    return {"threshold": threshold, "top_k": top_k, "patients": PATIENTS, "frames": FRAMES, "mcc": by_share}
