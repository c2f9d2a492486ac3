"""Where the ways to read a patient differ, in cases that theory settles."""

import math

import numpy as np
import pytest

from models.simulated import Scenario, read_by_rules, simulate, simulated_figures


def share_right(
    scenario: Scenario, *, patients: int, frames: int, top_k: int
) -> dict[str, tuple[float, float]]:
    """Return sensitivity and specificity by rule; every frame reaches the threshold."""
    probabilities, labels = simulate(scenario, patients=patients, frames=frames, seed=0)
    read = read_by_rules(probabilities, threshold=0.5, top_k=top_k)
    return {
        name: (float((r[0, labels] == 1).mean()), float((r[0, ~labels] == 0).mean()))
        for name, r in read.items()
    }


def test_a_lesion_on_few_frames_is_lost_in_the_mean_and_found_by_the_most_confident() -> None:
    """A fifth shows the lesion, surer than the rest look normal: the mean is below one half, top-k above."""
    scenario = Scenario(share=0.2, lesion=8.0, normal=-3.0, frame_sd=0.5)
    found = share_right(scenario, patients=400, frames=40, top_k=1)
    assert found["mean"] == (0.0, 1.0)
    assert found["rule"] == found["max"]
    assert min(found["rule"]) > 0.99


def test_where_every_frame_shows_the_disease_the_mean_of_all_beats_the_few_most_confident() -> None:
    """Independent errors: the sum of n margins is the likelihood ratio, right with Phi(sqrt(n) m / s).

    No rule may beat it by more than chance, and one that leaves most frames out is worse.
    """
    scenario = Scenario(share=1.0, lesion=0.5, normal=-0.5, frame_sd=2.0)
    found = {
        name: np.mean(pair) for name, pair in share_right(scenario, patients=4000, frames=25, top_k=3).items()
    }
    best = 0.5 * (1 + math.erf(math.sqrt(25) * 0.25 / math.sqrt(2)))
    error = math.sqrt(0.25 / 4000)
    assert best + 3 * error > found["mean"] > found["rule"] + 6 * error > found["max"] + 12 * error


def test_an_error_that_all_frames_share_leaves_nothing_to_gain_by_any_rule() -> None:
    scenario = Scenario(share=1.0, lesion=1.0, normal=-1.0, shared_sd=2.0, frame_sd=0.0)
    found = share_right(scenario, patients=4000, frames=25, top_k=3)
    assert found["mean"] == found["max"] == found["rule"]
    assert np.mean(found["mean"]) == pytest.approx(0.5 * (1 + math.erf(0.5 / math.sqrt(2))), abs=0.025)


def test_the_maximum_calls_the_healthy_ill_as_often_as_any_of_their_frames_errs() -> None:
    found = share_right(Scenario(share=0.3, frame_sd=1.5), patients=4000, frames=20, top_k=3)
    one = 0.5 * (1 + math.erf(2 / math.sqrt(2)))
    assert found["max"][1] == pytest.approx(one**20, abs=3 * math.sqrt(0.25 / 2000))


def test_lesion_shares_scatter_about_their_mean_and_the_seed_decides_all() -> None:
    scenario = Scenario(share=0.4, concentration=5.0, lesion=50.0, normal=-50.0, frame_sd=1.0)
    probabilities, labels = simulate(scenario, patients=2000, frames=200, seed=3)
    shown = (probabilities > 0.5).mean(axis=1)
    assert shown[~labels].max() == 0
    assert shown[labels].mean() == pytest.approx(0.4, abs=4 * 0.2 / math.sqrt(1000))
    assert shown[labels].std() == pytest.approx(math.sqrt(0.24 / 6 + 0.24 / 200 * 5 / 6), rel=0.1)
    np.testing.assert_array_equal(probabilities, simulate(scenario, patients=2000, frames=200, seed=3)[0])


def test_the_stated_figures_favour_the_largest_where_lesions_are_rare_and_the_mean_where_they_are_not() -> (
    None
):
    found = simulated_figures(threshold=0.93, top_k=6)["mcc"]
    assert [*found] == [str(tenth / 10) for tenth in range(1, 11)]
    assert found["0.1"]["max"] > found["0.1"]["mean"] + 0.03
    assert found["1.0"]["mean"] > found["1.0"]["max"] + 0.3
    assert found["1.0"]["mean"] > 0.97
