"""From the frames' logits to one reading a patient: keep what is sure, rank it, average the first k.

Source: Datres et al., BioData Mining 16:33 (2023), "Per-patient inference model". The paper leaves open
whether the top-k weighted mean is of votes or of probabilities; both are here, probabilities the default.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.classifier import Scores
from models.package import Package, VoteMode
from pipeline.frame import FrameSource

DECISION = 0.5
"""A frame or a patient is read as IBD from here on, exactly 0.5 included."""

FOREIGN = "out_of_distribution"
"""Why a frame does not vote that is unlike those the network learnt from (`models.ood`)."""


@dataclass(frozen=True, slots=True)
class FramePrediction:
    """What the model says of one frame.

    Attributes
    ----------
    source
        The instance and frame number.
    label
        The class it is read as.
    probability
        Of the positive class, calibrated, 0 to 1; the label is the positive class exactly from 0.5 on.
    confidence
        Of the label, 0.5 to 1.
    reason
        Why it may not vote, however confident; None where it may.
    """

    source: FrameSource
    label: str
    probability: float
    confidence: float
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class PatientPrediction:
    """What the model says of one patient's exam.

    Attributes
    ----------
    reading
        ``ibd``, ``healthy`` or ``unpredicted``.
    reason
        Why unpredicted: ``no_frames``, ``below_threshold``, why frames that reached it may not vote, or what
        a caller knew without asking the model.
    probability
        The confidence-weighted mean that decided, 0 to 1; None where unpredicted.
    used
        The frames it rests on, most confident first.
    """

    reading: Literal["ibd", "healthy", "unpredicted"]
    reason: str | None
    probability: float | None
    used: tuple[FramePrediction, ...]


def calibrate(margins: NDArray[np.floating], *, temperature: float, offset: float) -> NDArray[np.float64]:
    """Return the positive class's probability: the logistic function of (margin + offset) / temperature.

    `margins` is ``(N,)``, the positive class's logit less the other's. The hyperbolic form neither overflows
    nor breaks the symmetry of p and 1 - p.

    >>> calibrate(np.array([-1.0, 3.0]), temperature=2.0, offset=1.0).round(3).tolist()
    [0.5, 0.881]
    """
    return 0.5 * (1.0 + np.tanh((margins.astype(np.float64) + offset) / (2.0 * temperature)))


def predict_frames(scores: Scores, sources: Sequence[FrameSource], package: Package) -> list[FramePrediction]:
    """Calibrate the logits and label every frame, in the order given; a foreign one may not vote.

    Raises
    ------
    ValueError
        There is not one source a row of logits.
    """
    positive = package.classes.index(package.positive)
    other = 1 - positive
    margins = scores.logits[:, positive].astype(np.float64) - scores.logits[:, other]
    probabilities = calibrate(margins, temperature=package.temperature, offset=package.offset)
    is_foreign = np.zeros(len(margins), np.bool_)
    if scores.foreignness is not None and package.foreign_threshold is not None:
        is_foreign = scores.foreignness > package.foreign_threshold
    return [
        FramePrediction(
            source=source,
            label=package.classes[positive if probability >= DECISION else other],
            probability=probability,
            confidence=max(probability, 1.0 - probability),
            reason=FOREIGN if foreign else None,
        )
        for source, probability, foreign in zip(
            sources, probabilities.tolist(), is_foreign.tolist(), strict=True
        )
    ]


def rank_frames(frames: Iterable[FramePrediction]) -> list[FramePrediction]:
    """Sort by confidence, highest first; ties by SOP Instance UID, then frame number."""
    return sorted(frames, key=lambda frame: (-frame.confidence, frame.source))


def vote_once(frames: Iterable[FramePrediction], groups: Iterable[int]) -> list[FramePrediction]:
    """Return the most confident frame of each near-duplicate group, ranked: a scene then votes once.

    Of frames that may not vote each group keeps the most confident for each reason, beside the one that may.
    `groups` numbers the group of each frame, as `pipeline.clean.near_duplicates.duplicate_groups` does.
    """
    best: dict[tuple[int, str | None], FramePrediction] = {}
    pairs = zip(frames, groups, strict=True)
    for frame, group in sorted(pairs, key=lambda pair: (-pair[0].confidence, pair[0].source)):
        best.setdefault((group, frame.reason), frame)
    return list(best.values())


def read_patient(
    frames: Iterable[FramePrediction],
    *,
    threshold: float,
    top_k: int,
    vote_mode: VoteMode = "probabilities",
) -> PatientPrediction:
    """Read one patient from the frames that reach `threshold`, at most the `top_k` most confident of them.

    The order of `frames` does not matter. Vote mode ``probabilities`` averages the positive class's
    probability, ``votes`` the labels; both weigh each frame with its confidence. What is averaged is the
    distance from 0.5, so that frames which contradict each other exactly tie exactly, and a tie is IBD.

    Unpredicted is for `FOREIGN` where every frame is, or where nothing voted and one of these reached the
    threshold; then for any other reason why a frame that reached it may not vote.
    """
    ranked = rank_frames(frames)
    sure = [frame for frame in ranked if frame.confidence >= threshold]
    used = tuple(frame for frame in sure if frame.reason is None)[:top_k]
    if not used:
        refused = [frame.reason for frame in sure if frame.reason is not None]
        if FOREIGN in refused or (ranked and all(frame.reason == FOREIGN for frame in ranked)):
            refused = [FOREIGN]
        reason = "below_threshold" if ranked else "no_frames"
        return PatientPrediction("unpredicted", refused[0] if refused else reason, None, ())
    weighed = weight = 0.0
    for frame in used:  # one after the other: `models.grid` adds in this order, and rounds alike
        vote = float(frame.probability >= DECISION) if vote_mode == "votes" else frame.probability
        weighed += frame.confidence * (vote - DECISION)
        weight += frame.confidence
    probability = DECISION + weighed / weight
    return PatientPrediction("ibd" if probability >= DECISION else "healthy", None, probability, used)
