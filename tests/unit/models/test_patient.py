"""The per-patient rule against an oracle that shares no code with it."""

import math
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.classifier import Scores
from models.package import Package, VoteMode
from models.patient import FramePrediction, calibrate, predict_frames, rank_frames, read_patient, vote_once
from pipeline.frame import FrameSource


def frame(probability: float, uid: str = "1.2", number: int = 1) -> FramePrediction:
    label = "ibd" if probability >= 0.5 else "healthy"
    return FramePrediction(FrameSource(uid, number), label, probability, max(probability, 1 - probability))


probabilities = st.one_of(
    st.sampled_from([0.0, 0.03, 0.07, 0.1, 0.5, 0.9, 0.93, 0.97, 1.0]), st.floats(0, 1, allow_nan=False)
)
exams = st.lists(
    st.tuples(probabilities, st.sampled_from(["1.2", "1.10", "1.3"]), st.integers(1, 12)),
    max_size=25,
    unique_by=lambda drawn: drawn[1:],
).map(lambda drawn: [frame(*values) for values in drawn])
thresholds = st.sampled_from([0.5, 0.85, 0.93, 0.97, 0.99, 1.0])
modes: st.SearchStrategy[VoteMode] = st.sampled_from(["probabilities", "votes"])


def oracle(
    frames: list[FramePrediction], threshold: float, top_k: int, vote_mode: str
) -> tuple[float | None, list[FrameSource]]:
    """Pick the best remaining frame `top_k` times by looking at each; then average in exact arithmetic."""
    left = [f for f in frames if not f.confidence < threshold]
    chosen: list[FramePrediction] = []
    while left and len(chosen) < top_k:
        best = left[0]
        for other in left[1:]:
            if other.confidence > best.confidence or (
                other.confidence == best.confidence
                and (other.source.sop_instance_uid, other.source.frame_number)
                < (best.source.sop_instance_uid, best.source.frame_number)
            ):
                best = other
        left.remove(best)
        chosen.append(best)
    if not chosen:
        return None, []
    above = sum(
        f.confidence * (f.probability if vote_mode == "probabilities" else (1 if f.label == "ibd" else 0))
        for f in chosen
    )
    return above / sum(f.confidence for f in chosen), [f.source for f in chosen]


@given(exams, thresholds, st.integers(1, 10), modes)
def test_the_rule_equals_a_brute_force_oracle(
    frames: list[FramePrediction], threshold: float, top_k: int, vote_mode: VoteMode
) -> None:
    found = read_patient(frames, threshold=threshold, top_k=top_k, vote_mode=vote_mode)
    expected, sources = oracle(frames, threshold, top_k, vote_mode)
    assert [f.source for f in found.used] == sources
    if expected is None:
        assert (found.reading, found.probability) == ("unpredicted", None)
        assert found.reason == ("below_threshold" if frames else "no_frames")
        return
    assert found.probability == pytest.approx(expected, abs=1e-12)
    assert found.reason is None
    if not math.isclose(expected, 0.5, abs_tol=1e-9):
        assert found.reading == ("ibd" if expected > 0.5 else "healthy")


@given(exams, thresholds, st.integers(1, 10), modes, st.randoms(use_true_random=False))
def test_the_order_in_which_frames_arrive_changes_nothing(
    frames: list[FramePrediction], threshold: float, top_k: int, vote_mode: VoteMode, chance: random.Random
) -> None:
    """Images of one study arrive in any order over any number of associations; to the last bit."""
    shuffled = list(frames)
    chance.shuffle(shuffled)
    assert read_patient(shuffled, threshold=threshold, top_k=top_k, vote_mode=vote_mode) == read_patient(
        frames, threshold=threshold, top_k=top_k, vote_mode=vote_mode
    )


def test_a_frame_exactly_at_the_threshold_votes() -> None:
    found = read_patient([frame(0.93)], threshold=0.93, top_k=6)
    assert (found.reading, found.probability) == ("ibd", 0.93)


def test_a_mean_of_exactly_one_half_is_read_as_ibd() -> None:
    found = read_patient([frame(0.5)], threshold=0.5, top_k=6)
    assert (found.reading, found.probability) == ("ibd", 0.5)


@given(st.floats(0.5, 1, exclude_min=True), st.floats(0.5, 1, exclude_min=True), modes)
def test_frames_that_contradict_each_other_exactly_are_read_as_ibd(
    p: float, q: float, mode: VoteMode
) -> None:
    """A missed disease is the worse error; the rounding of a mean must not decide in its place."""
    frames = [frame(each, str(number)) for number, each in enumerate((p, 1 - p, q, 1 - q))]
    found = read_patient(frames, threshold=0.5, top_k=10, vote_mode=mode)
    assert (found.reading, found.probability) == ("ibd", 0.5)


@given(exams, st.randoms(use_true_random=False))
def test_of_near_duplicates_the_most_confident_votes_whatever_the_order(
    frames: list[FramePrediction], chance: random.Random
) -> None:
    """An endoscope that rests on one scene would otherwise fill all k places with it."""
    groups = [f.source.frame_number % 3 for f in frames]
    expected = [
        rank_frames(f for f, g in zip(frames, groups, strict=True) if g == group)[0] for group in set(groups)
    ]
    pairs = list(zip(frames, groups, strict=True))
    chance.shuffle(pairs)
    found = vote_once([f for f, _ in pairs], [g for _, g in pairs])
    assert found == rank_frames(expected)


def test_ties_go_to_the_lower_uid_and_then_to_the_lower_frame_number() -> None:
    tied = [frame(0.95, "1.2", 10), frame(0.05, "1.3", 1), frame(0.95, "1.2", 9)]
    ranked = [(f.source.sop_instance_uid, f.source.frame_number) for f in rank_frames(tied)]
    assert ranked == [("1.2", 9), ("1.2", 10), ("1.3", 1)]


def test_the_two_readings_of_the_papers_weighted_mean_can_disagree() -> None:
    """Datres: "a weighted mean where the weights are the confidence itself" is open between these two."""
    frames = [frame(0.999, "1"), frame(0.06, "2"), frame(0.44, "3"), frame(0.44, "4")]
    by_votes = read_patient(frames, threshold=0.5, top_k=6, vote_mode="votes")
    by_probability = read_patient(frames, threshold=0.5, top_k=6)
    assert by_votes.probability == pytest.approx(0.999 / (0.999 + 0.94 + 0.56 + 0.56))
    assert by_probability.probability == pytest.approx(
        (0.999**2 + 0.94 * 0.06 + 2 * 0.56 * 0.44) / (0.999 + 0.94 + 0.56 + 0.56)
    )
    narrow = [frame(0.999, "1"), frame(0.49, "2"), frame(0.49, "3")]
    assert read_patient(narrow, threshold=0.5, top_k=6).reading == "ibd"
    assert read_patient(narrow, threshold=0.5, top_k=6, vote_mode="votes").reading == "healthy"


@given(st.floats(-60, 60), st.floats(-60, 60), st.floats(-5, 5), st.floats(0.05, 20))
def test_calibration_is_the_softmax_of_shifted_scaled_logits(
    healthy: float, ibd: float, offset: float, temperature: float
) -> None:
    """The margin form z' = ((z_ibd - z_healthy) + b)/T must say what a two-class softmax says."""
    scaled = np.array([healthy / temperature, (ibd + offset) / temperature])
    softmax = np.exp(scaled - scaled.max())
    found = calibrate(np.array([ibd - healthy]), temperature=temperature, offset=offset)[0]
    assert found == pytest.approx(softmax[1] / softmax.sum(), abs=1e-9)


def test_extreme_margins_neither_overflow_nor_leave_the_unit_interval() -> None:
    found = calibrate(np.array([-1e6, 1e6], np.float32), temperature=0.01, offset=0.0)
    assert found.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("classes", [("healthy", "ibd"), ("ibd", "healthy")])
def test_logits_are_read_in_the_packages_class_order(classes: tuple[str, str]) -> None:
    """A package may list the positive class first; swapping them would turn every reading over."""
    package = package_of(classes)
    ibd_first = classes[0] == "ibd"
    logits = np.array([[3.0, 0.0], [0.0, 3.0]], np.float32)
    found = predict_frames(
        Scores(logits, None, None), [FrameSource("1.2", 1), FrameSource("1.2", 2)], package
    )
    assert [f.label for f in found] == (["ibd", "healthy"] if ibd_first else ["healthy", "ibd"])
    assert [f.source.frame_number for f in found] == [1, 2]
    margin = (3.0 if ibd_first else -3.0) + package.offset
    assert found[0].probability == pytest.approx(1 / (1 + math.exp(-margin / package.temperature)))
    assert all(f.confidence == max(f.probability, 1 - f.probability) for f in found)


def test_a_source_too_few_is_an_error_and_not_a_shifted_label() -> None:
    with pytest.raises(ValueError, match="zip"):
        predict_frames(
            Scores(np.zeros((2, 2), np.float32), None, None),
            [FrameSource("1", 1)],
            package_of(("healthy", "ibd")),
        )


def package_of(classes: tuple[str, str]) -> Package:
    return Package(
        folder=Path(),
        digest="",
        name="",
        version="",
        classes=classes,
        positive="ibd",
        input_rows=224,
        input_columns=224,
        threshold=0.93,
        top_k=6,
        vote_mode="probabilities",
        temperature=2.0,
        offset=0.5,
        manifest={},
    )
