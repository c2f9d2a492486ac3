"""Saying nothing where one would be wrong: what abstaining buys, and a threshold that guarantees it.

What is counted are patients: frames of one patient are not exchangeable with those of another.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from models.counts import Flags, Floats, Ints, binomial_cdf, upper_bound
from models.figures import Statistic, bootstrap, pairs_won, summarise
from models.patient import DECISION

DELTA = 0.05
"""The chance with which a guarantee may fail."""

RISK = 0.1
"""The error rate that `certified_figures` asks for."""

COVERAGES = np.linspace(0.02, 1.0, 50)
"""Points of a published curve."""


@dataclass(frozen=True, slots=True, eq=False)
class RiskCoverage:
    """How the errors grow while less and less confident patients are read.

    Attributes
    ----------
    coverage, kept_errors
        ``(points,)`` from (0, 0) to (1, error rate): the share of all patients that is read, and the share of
        all patients that is read wrongly. Equally confident patients are read together.
    aurc, e_aurc
        Area under the error rate of those read (Geifman, Uziel & El-Yaniv 2019), and what is above the area
        of a perfect ranking, e + (1 - e) ln(1 - e) for an error rate e.
    """

    coverage: Floats
    kept_errors: Floats
    aurc: float
    e_aurc: float


def risk_coverage(confidences: Floats, wrong: Flags) -> RiskCoverage:
    """Return the curve of ``(patients,)`` confidences and of whether each reading was wrong.

    Between two points patients are read in random order: kept errors grow linearly, kept = a + b coverage,
    and the area under kept / coverage is that of a / coverage + b, exactly.
    """
    order = np.argsort(-confidences, kind="stable")
    last = np.append(np.diff(confidences[order]) != 0, True)
    coverage = np.append(0.0, np.flatnonzero(last) + 1) / len(wrong)
    kept = np.append(0.0, np.cumsum(wrong[order])[last]) / len(wrong)
    slope = np.diff(kept) / np.diff(coverage)
    start = kept[:-1] - slope * coverage[:-1]
    curved = float((start[1:] * np.diff(np.log(coverage[1:]))).sum())  # the first point's is zero
    aurc = curved + float(kept[-1])
    error = float(kept[-1])
    least = error + (1 - error) * math.log1p(-error) if error < 1 else 1.0
    return RiskCoverage(coverage, kept, aurc, aurc - least)


def augrc_statistic(confidences: Floats, wrong: Flags, patients: Ints) -> Statistic:
    """Return AUGRC, averaged over models or draws, as a statistic of resampled patients.

    The area under the share of all that is read wrongly, over coverage (Traub et al. 2024): in how many pairs
    a wrong reading is the more confident one, of all pairs. All its errors read last make e ** 2 / 2 for an
    error rate e. `confidences` and `wrong` are ``(models, N)``, `patients` ``(N,)``, numbered from 0.
    """
    frames = np.bincount(patients).astype(np.float64)
    everyone = np.ones(len(patients), np.bool_)
    of_models = [pairs_won(c, patients, w, everyone) for c, w in zip(confidences, wrong, strict=True)]
    pairs = np.mean(of_models, axis=0)
    return lambda counts: {"augrc": ((counts @ pairs) * counts).sum(axis=1) / (counts @ frames) ** 2}


def selective_figures(probabilities: Floats, labels: Flags, patients: Ints) -> dict[str, Any]:
    """Return AUGRC, AURC and the curve of [coverage, error rate]; ``(models, N)`` probabilities, averaged."""
    confidences, wrong = np.maximum(probabilities, 1 - probabilities), (probabilities >= DECISION) != labels
    curves = [risk_coverage(c, w) for c, w in zip(confidences, wrong, strict=True)]
    kept = np.mean([np.interp(COVERAGES, each.coverage, each.kept_errors) for each in curves], axis=0)
    augrc = bootstrap(augrc_statistic(confidences, wrong, patients), int(patients.max()) + 1)["augrc"]
    return {
        "augrc": summarise(augrc),
        "aurc": round(float(np.mean([each.aurc for each in curves])), 4),
        "e_aurc": round(float(np.mean([each.e_aurc for each in curves])), 4),
        "curve": np.stack([COVERAGES, kept / COVERAGES], axis=1).round(4).tolist(),
    }


@dataclass(frozen=True, slots=True)
class Certificate:
    """An error rate that holds, but for a small chance, for every later patient of the same kind.

    Attributes
    ----------
    threshold
        Patients are read from this confidence on; None where the risk could not be certified.
    bound
        The error rate certified among those read; 1 where none is.
    read, wrong
        Patients that reach the threshold, and of these the wrong ones.
    """

    threshold: float | None
    bound: float
    read: int
    wrong: int


def _share(delta: float, patients: int) -> float:
    """Return each test's share of `delta`: a search takes ceil(log2 n) at most, which must all hold."""
    return delta / max(1, math.ceil(math.log2(patients)))


def least_certifiable(patients: int) -> float:
    """Return the lowest error rate that `certify` can certify: that of all patients read, none wrongly."""
    return upper_bound(0, patients, delta=_share(DELTA, patients))


def certify(confidences: Floats, wrong: Flags, *, risk: float, delta: float = DELTA) -> Certificate:
    """Return the lowest threshold found whose error rate is `risk` at most, but for a chance `delta`.

    Selection with guaranteed risk (SGR; Geifman & El-Yaniv 2017, algorithm 2): a binary search over how many
    of the most confident patients are read, each test with its share of `delta`. Unlike the paper's, which
    starts at half of all, it leaves out numbers too small to certify `risk` even without an error: few
    patients would fail for their number, and the search turn to fewer. The guarantee holds for patients
    exchangeable with these whose error rate does not grow with confidence; the model, calibration and (t, k)
    must have been chosen without them. Both arrays are ``(patients,)``.
    """
    size, share = len(wrong), _share(delta, len(wrong))
    ascending = np.sort(confidences)
    found = Certificate(None, 1.0, 0, 0)
    low, high = max(1, math.ceil(math.log(share) / math.log1p(-risk)) - 1), size
    while low < high:
        tried = (low + high + 1) // 2
        threshold = float(ascending[size - tried])
        read = int((confidences >= threshold).sum())
        errors = int(wrong[confidences >= threshold].sum())
        if binomial_cdf(errors, read, risk) <= share:
            found = Certificate(threshold, risk, read, errors)
            low = read
        else:
            high = tried - 1
    return replace(found, bound=upper_bound(found.wrong, found.read, delta=share))


def certified_figures(probabilities: Floats, labels: Flags) -> dict[str, Any]:
    """Return what `RISK` is certified of patients by each of ``(seeds, patients)`` probabilities.

    And the least that so many patients could have certified.
    """
    patients, each_seed = len(labels), []
    for row in probabilities:
        found = certify(np.maximum(row, 1 - row), (row >= DECISION) != labels, risk=RISK)
        says = f"{RISK:.1%} not certified: too many of {patients} patients read wrongly"
        if found.threshold is not None:
            of_read = f"of those read ({found.read} of {patients} patients, {found.wrong} wrong)"
            says = f"at most {found.bound:.1%} {of_read}"
        each_seed.append(
            {"bound": round(found.bound, 4), "coverage": round(found.read / patients, 4), "says": says}
        )
    return {
        "risk": RISK,
        "confidence": 1 - DELTA,
        "least_certifiable": round(least_certifiable(patients), 4),
        "each_seed": each_seed,
    }
