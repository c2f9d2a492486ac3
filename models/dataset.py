"""A data set: a table of labelled frames and the root that their paths lie below; folds that do not leak."""

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from models.errors import ModelError

CLASSES = ("healthy", "ibd")
REQUIRED = ("patient", "label", "path", "group")
OPTIONAL = ("fold", "site", "kind")
INSEPARABLE = ("patient", "group", "sha256")
"""Frames that have one of these in common belong on one side of every split."""


class DatasetError(ModelError):
    """A data set's table or files are not what was expected, or its split leaks."""


@dataclass(frozen=True, slots=True)
class LabelledFrame:
    """One row of the table, in our words.

    Attributes
    ----------
    path
        Of the file, below the root.
    label
        One of `CLASSES`.
    group
        Frames of one scene, or too alike to stand on both sides of a split.
    fold, site
        As the table has them; None where it has no such column.
    kind
        A finer class, for figures of its own, where the table has one.
    sha256
        Of the file's bytes.
    """

    patient: str
    label: str
    path: str
    group: str
    sha256: str
    fold: str | None = None
    site: str | None = None
    kind: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """The frames in the table's order; `digest` is the SHA-256 of all rows with their files' digests."""

    root: Path
    frames: tuple[LabelledFrame, ...]
    digest: str


@dataclass(frozen=True, slots=True)
class ForeignTable:
    """How a table of another form is read: our column -> its column, its label -> our class."""

    columns: Mapping[str, str]
    labels: Mapping[str, str]


KNOWN_TABLES = (
    ForeignTable(  # pseudo_patients.csv: HyperKvasir dealt into pseudo-patients
        columns={
            "patient": "pseudo_patient_id", "label": "label", "path": "path", "group": "near_duplicate_group",
            "fold": "cv_fold", "kind": "class",
        },
        labels={"normal": "healthy", "uc": "ibd"},
    ),
)  # fmt: skip
"""Tables that are read without being told how, wherever all their columns are found."""


def load_dataset(
    table: Path,
    root: Path,
    *,
    columns: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
) -> Dataset:
    """Read the table and every file's digest.

    Parameters
    ----------
    columns
        Our column -> the table's, where they differ.
    labels
        The table's label -> our class, where they differ.

    Raises
    ------
    DatasetError
        The table cannot be read or is empty, a column, value or file is missing, a label is unknown, a path
        leads out of the root or comes twice, or the fold column leaks.
    """
    header, rows = _read(table)
    places, classes = _words(table, header, columns or {}, labels or {})
    frames: list[LabelledFrame] = []
    seen: dict[str, int] = {}
    for line, row in enumerate(rows, 2):
        values = {name: (row[column] or "").strip() for name, column in places.items()}
        where = f"{table}, line {line}"
        if empty := [places[name] for name, value in values.items() if not value]:
            raise DatasetError(f"{where}: {empty[0]}: a value was expected, none was found")
        if values["label"] not in classes:
            raise DatasetError(
                f"{where}: {places['label']}: {', '.join(sorted(classes))} were expected, "
                f"{values['label']!r} was found; say --labels {values['label']}=..."
            )
        if (first := seen.setdefault(values["path"], line)) != line:
            raise DatasetError(f"{where}: another file was expected, that of line {first} was found")
        digest = _digest(root, values["path"], where)
        frames.append(LabelledFrame(**{**values, "label": classes[values["label"]]}, sha256=digest))
    if "fold" in places:
        refuse_leaks(frames, [frame.fold for frame in frames])
    lines = "".join(json.dumps(asdict(frame), sort_keys=True) + "\n" for frame in frames)
    return Dataset(root, tuple(frames), hashlib.sha256(lines.encode()).hexdigest())


def refuse_leaks(frames: Sequence[LabelledFrame], folds: Sequence[object]) -> None:
    """Check that no patient, near-duplicate group or file is in two folds; `folds` has one for each frame.

    Raises
    ------
    DatasetError
        One is; both frames are named by their line in the table, for a patient's name stays out of errors.
    """
    for kind, words in zip(INSEPARABLE, ("patient", "near-duplicate group", "very same file"), strict=True):
        first: dict[str, tuple[int, object]] = {}
        for line, (frame, fold) in enumerate(zip(frames, folds, strict=True), 2):
            other, its_fold = first.setdefault(getattr(frame, kind), (line, fold))
            if fold != its_fold:
                raise DatasetError(
                    f"the split leaks: lines {other} and {line} of the table are of one {words}, but in "
                    f"folds {its_fold} and {fold}; keep each patient and near-duplicate group in one fold"
                )


def choose_folds(frames: Sequence[LabelledFrame], *, count: int = 5, seed: int = 0) -> NDArray[np.int64]:
    """Return each frame's fold, from 0: the table's own where it has them, else dealt.

    What belongs together, also through a third, is dealt as one, the largest first, to the fold that has the
    least of its label; `seed` orders equals. The greedy rule is scikit-learn's StratifiedGroupKFold's.

    Raises
    ------
    DatasetError
        There are fewer unrelated sets of frames than folds.
    """
    if all(frame.fold is not None for frame in frames):
        return np.unique([frame.fold for frame in frames], return_inverse=True)[1]
    sets = _related(frames)
    counts = np.zeros((sets.max() + 1, len(CLASSES)))
    np.add.at(counts, (sets, np.array([CLASSES.index(frame.label) for frame in frames])), 1)
    if len(counts) < count:
        raise DatasetError(
            f"{count} folds: as many unrelated patients were expected, {len(counts)} found; ask for fewer"
        )
    shares = counts / np.maximum(counts.sum(axis=0), 1)
    drawn = np.random.default_rng(seed).permutation(len(counts))
    held = np.zeros((count, len(CLASSES)))
    fold_of = np.empty(len(counts), np.int64)
    for each in drawn[np.argsort(-counts[drawn].sum(axis=1), kind="stable")]:
        fold_of[each] = np.lexsort((held.sum(axis=1), held @ shares[each]))[0]
        held[fold_of[each]] += shares[each]
    return fold_of[sets]


def _words(
    table: Path, header: Sequence[str], columns: Mapping[str, str], labels: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Return our column -> the table's, and the table's label -> our class."""
    own = {name: name for name in (*REQUIRED, *OPTIONAL) if name in REQUIRED or name in header}
    plain = ForeignTable(own, {})
    known = next((each for each in KNOWN_TABLES if {*each.columns.values()} <= {*header}), plain)
    places = {**known.columns, **columns}
    classes = {**{name: name for name in CLASSES}, **known.labels, **labels}
    for option, found, allowed in (
        ("--columns", places, (*REQUIRED, *OPTIONAL)),
        ("--labels", classes.values(), CLASSES),
    ):
        if wrong := {*found} - {*allowed}:
            raise DatasetError(
                f"{option}: one of {', '.join(allowed)} was expected, {min(wrong)!r} was found"
            )
    for name, column in places.items():
        if column not in header:
            raise DatasetError(
                f"{table}: a column {column!r} was expected, {', '.join(header)} were found; "
                f"say --columns {name}=..."
            )
    return places, classes


def _related(frames: Sequence[LabelledFrame]) -> NDArray[np.int64]:
    """Number the sets of frames that a patient, group or file ties together, from 0."""
    parents = list(range(len(frames)))

    def top(number: int) -> int:
        while parents[number] != number:
            parents[number] = number = parents[parents[number]]
        return number

    first: dict[tuple[str, str], int] = {}
    for number, frame in enumerate(frames):
        for kind in INSEPARABLE:
            parents[top(number)] = top(first.setdefault((kind, getattr(frame, kind)), number))
    return np.unique([top(number) for number in range(len(frames))], return_inverse=True)[1]


def _read(table: Path) -> tuple[list[str], list[dict[str, str | None]]]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines)
            rows = list(reader)
    except OSError as error:
        raise DatasetError(f"{table}: a table was expected: {error.strerror}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise DatasetError(f"{table}: a CSV table in UTF-8 was expected: {error}") from error
    if not rows:
        raise DatasetError(f"{table}: a header and at least one row were expected, none was found")
    return list(reader.fieldnames or ()), rows


def _digest(root: Path, path: str, where: str) -> str:
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise DatasetError(f"{where}: a path below the root was expected, {path!r} was found")
    try:
        with (root / path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"{where}: {root / path}: a file was expected, none can be read; look at --root"
        ) from error
