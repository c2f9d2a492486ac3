"""What a package says of a data set, frame by frame and patient by patient, and how good that is.

Frames are cleaned and read as the node does, each by itself; one that is unlike what the package has learnt
from does not vote. A patient that cannot be predicted counts as read wrongly, except where a figure says
otherwise.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.classifier import Classifier
from models.cleaned import Outcome
from models.counts import clopper_pearson
from models.dataset import CLASSES, Dataset, DatasetError
from models.errors import PackageError
from models.figures import Figure, frame_figures, patient_figures, published_figures
from models.package import Package
from models.patient import (
    FOREIGN,
    FramePrediction,
    PatientPrediction,
    predict_frames,
    read_patient,
    vote_once,
)
from models.run_folder import write_table
from pipeline.clean.near_duplicates import Fingerprint, duplicate_groups, fingerprint
from pipeline.frame import FrameSource

FRAME_COLUMNS = ("path", "patient", "label", "probability", "confidence", "kept", "reason")
PATIENT_COLUMNS = ("patient", "label", "reading", "reason", "probability", "frames", "used")

TRAINING_FRAMES = "frames"
"""In the manifest's ``training_data``: names the file of the training frames' SHA-256, one a line."""


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """What the package says.

    Attributes
    ----------
    frames
        In the data set's order; why it was not read, where the cleaning refused a frame.
    labels, patients
        Each patient's label and reading, in the order of their first frames.
    """

    frames: tuple[FramePrediction | str, ...]
    labels: dict[str, str]
    patients: dict[str, PatientPrediction]


def predict(package: Package, dataset: Dataset, outcomes: Iterable[Outcome]) -> Predictions:
    """Read every frame and every patient; `outcomes` are the frames' views, or why they have none, in order.

    Raises
    ------
    DatasetError
        A patient has frames of both labels, so that none is the patient's own.
    """
    labels: dict[str, str] = {}
    for frame in dataset.frames:
        if labels.setdefault(frame.patient, frame.label) != frame.label:
            raise DatasetError(
                f"{frame.path}: the label of its patient's other frames was expected, {frame.label} was found"
            )
    classifier = Classifier(package)
    frames: list[FramePrediction | str] = []
    kept: dict[str, list[tuple[FramePrediction, Fingerprint]]] = {patient: [] for patient in labels}
    for frame, outcome in zip(dataset.frames, outcomes, strict=True):
        if isinstance(outcome, str):
            frames.append(outcome)
            continue
        (read,) = predict_frames(classifier.score(outcome[None]), [FrameSource(frame.path, 1)], package)
        frames.append(read)
        kept[frame.patient].append((read, fingerprint(outcome)))
    patients = {
        patient: read_patient(
            vote_once([read for read, _ in given], duplicate_groups([seen for _, seen in given])),
            threshold=package.threshold,
            top_k=package.top_k,
            vote_mode=package.vote_mode,
        )
        for patient, given in kept.items()
    }
    return Predictions(tuple(frames), labels, patients)


def measure(package: Package, dataset: Dataset, said: Predictions) -> dict[str, Any]:
    """Return every figure and count; those of frames, or of patients, are None where only one label is."""
    pairs = zip(dataset.frames, said.frames, strict=True)
    read = [(frame, prediction) for frame, prediction in pairs if not isinstance(prediction, str)]
    numbers = {patient: number for number, patient in enumerate(said.labels)}
    labels = np.array([frame.label == package.positive for frame, _ in read], np.bool_)
    of_frames = None
    if labels.any() and not labels.all():
        probabilities = np.array([prediction.probability for _, prediction in read])
        patients = np.array([numbers[frame.patient] for frame, _ in read])
        of_frames = frame_figures(probabilities, labels, patients)
    readings = Counter(prediction.reading for prediction in said.patients.values())
    return {
        "package": {"name": package.name, "version": package.version, "digest": package.digest},
        "data_digest": dataset.digest,
        "in_training": _count_in_training(package, dataset),
        "counts": {
            "frames": len(dataset.frames),
            "kept": len(read),
            "out_of_distribution": sum(prediction.reason == FOREIGN for _, prediction in read),
            "rejected": dict(sorted(Counter(each for each in said.frames if isinstance(each, str)).items())),
            "frames_of_label": _count([frame.label for frame in dataset.frames]),
            "patients": len(said.labels),
            "patients_of_label": _count(list(said.labels.values())),
            "unpredicted": readings["unpredicted"],
        },
        "rule": {"threshold": package.threshold, "top_k": package.top_k, "vote_mode": package.vote_mode},
        "frame": of_frames,
        "patient": _patient_figures(said, package.positive),
    }


def warnings_of(metrics: Mapping[str, Any]) -> list[str]:
    """Return what whoever reads the figures must know first."""
    told = []
    seen, counts = metrics["in_training"], metrics["counts"]
    if seen is None:
        told.append("the package does not say which frames it was trained with; these may be among them")
    elif seen:
        told.append(f"{seen} of {counts['frames']} frames were in training: the figures flatter the package")
    if undecodable := counts["rejected"].get("undecodable"):
        told.append(f"{undecodable} of {counts['frames']} frames could not be decoded")
    lacking = [name for name in ("frame", "patient") if metrics[name] is None]
    return told + [f"no figures of single {name}s: some of both labels are needed" for name in lacking]


def write_predictions(out: Path, dataset: Dataset, said: Predictions) -> None:
    """Write ``frames.csv`` and ``patients.csv``; what is None is an empty cell."""
    write_table(
        out / "frames.csv",
        FRAME_COLUMNS,
        [
            (frame.path, frame.patient, frame.label, None, None, "false", read)
            if isinstance(read, str)
            else (
                frame.path, frame.patient, frame.label, read.probability, read.confidence, "true", read.reason
            )
            for frame, read in zip(dataset.frames, said.frames, strict=True)
        ],
    )  # fmt: skip
    frames = Counter(frame.patient for frame in dataset.frames)
    write_table(
        out / "patients.csv",
        PATIENT_COLUMNS,
        [
            (patient, said.labels[patient], read.reading, read.reason, read.probability, frames[patient],
             len(read.used))
            for patient, read in said.patients.items()
        ],
    )  # fmt: skip


def describe(metrics: Mapping[str, Any]) -> str:
    """Return the figures as a short table for people."""
    counts = metrics["counts"]
    refused = "".join(f", {count} {reason}" for reason, count in counts["rejected"].items())
    name = "{name} {version}".format(**metrics["package"])
    foreign = f" ({n} out of distribution, without a vote)" if (n := counts["out_of_distribution"]) else ""
    read = f"{counts['kept']} of {counts['frames']} frames read{foreign}{refused}"
    lines = [f"{name}: {read}; {counts['patients']} patients, {counts['unpredicted']} unpredicted"]
    for name in ("frame", "patient"):
        for figure, found in (metrics[name] or {}).items():
            interval = f" ({found['low']:.3f} to {found['high']:.3f})" if "low" in found else ""
            lines.append(f"{name:<8}{figure:<17}{found['value']:.3f}{interval}")
    return "\n".join(lines) + "\n"


def _patient_figures(said: Predictions, positive: str) -> dict[str, Figure] | None:
    labels = np.array([label == positive for label in said.labels.values()])
    if labels.all() or not labels.any():
        return None
    codes = {"healthy": 0, "ibd": 1, "unpredicted": -1}
    readings = np.array([[codes[prediction.reading] for prediction in said.patients.values()]], np.int8)
    others = patient_figures(readings, labels)
    wrong = sum(prediction.reading != said.labels[name] for name, prediction in said.patients.items())
    low, high = clopper_pearson(wrong, len(labels))  # a bootstrap of no errors would find none at all
    return {
        **published_figures(readings, labels),
        "error_rate": {"value": round(wrong / len(labels), 4), "low": round(low, 4), "high": round(high, 4)},
        "mcc_of_predicted": others["mcc_of_predicted"],
        "unpredicted": others["unpredicted"],
    }


def _count(labels: Sequence[str]) -> dict[str, int]:
    return {name: labels.count(name) for name in CLASSES}


def _count_in_training(package: Package, dataset: Dataset) -> int | None:
    """Return how many of the frames the package was trained with; None where it does not say."""
    told = package.manifest.get("training_data")
    name = told.get(TRAINING_FRAMES) if isinstance(told, dict) else None
    if name is None:
        return None
    if name not in package.manifest["files"]:
        raise PackageError(f"{package.folder}: a digest of its {name!r} was expected, none was found")
    known = set(package.read(name).decode().split())
    return sum(frame.sha256 in known for frame in dataset.frames)
