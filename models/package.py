"""A model package: a folder whose manifest, ``model.json``, vouches for every file by its SHA-256."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from models.errors import PackageError
from pipeline.clean.crop import VIEW_SIDE
from pipeline.clean.recipe import DEFAULT

VoteMode = Literal["probabilities", "votes"]

REFERENCE = Path(__file__).parent / "reference"
MANIFEST = "model.json"
MODEL = "model.onnx"

DEFAULT_THRESHOLD, DEFAULT_TOP_K = 0.93, 6
"""For a package that names none: the t and k that Datres et al. 2023 chose."""

_DEFAULTS = {"threshold": DEFAULT_THRESHOLD, "top_k": DEFAULT_TOP_K, "vote_mode": "probabilities"}
_OUTPUTS = ("logits", "cam", "embedding")
_FREE = {"quantisation", "training_data", "metrics"}
"""Sections for people; their form is not checked."""


@dataclass(frozen=True, slots=True)
class Package:
    """A checked package.

    Attributes
    ----------
    digest
        SHA-256 of the bytes of ``model.json``, which holds every other file's: it names the package.
    classes, positive
        In the order of the logits; the one whose probability is reported.
    input_rows, input_columns
        Pixels of a view.
    threshold, top_k, vote_mode
        The patient rule's t, k and reading of the weighted mean.
    temperature, offset
        Calibration of the margin, fitted after quantisation.
    manifest
        All of ``model.json``, and the default of what it leaves out.
    """

    folder: Path
    digest: str
    name: str
    version: str
    classes: tuple[str, ...]
    positive: str
    input_rows: int
    input_columns: int
    threshold: float
    top_k: int
    vote_mode: VoteMode
    temperature: float
    offset: float
    manifest: Mapping[str, Any]

    def read(self, name: str) -> bytes:
        """Return a file of the package, whose digest is checked on the very bytes returned.

        Raises
        ------
        PackageError
            The file is missing or its bytes are not those the manifest vouches for.
        """
        content = _read(self.folder, name)
        expected, found = self.manifest["files"][name], hashlib.sha256(content).hexdigest()
        if found != expected:
            raise PackageError(
                f"{self.folder / name}: SHA-256 {expected} was expected, {found} was found; "
                "restore the package's files"
            )
        return content


def load_package(folder: Path | None) -> Package:
    """Read and check the package in `folder`; None means the reference package that ships.

    Raises
    ------
    PackageError
        A file is missing or altered, or the package is of another format, task, class set, input or cleaning.
    """
    folder = REFERENCE if folder is None else folder
    content = _read(folder, MANIFEST)
    try:
        manifest = json.loads(content)
    except ValueError as error:
        raise PackageError(f"{folder / MANIFEST}: JSON was expected: {error}") from error
    manifest = _checked(folder / MANIFEST, manifest)
    package = Package(
        folder=folder,
        digest=hashlib.sha256(content).hexdigest(),
        name=manifest["name"],
        version=manifest["version"],
        classes=tuple(manifest["classes"]),
        positive=manifest["positive"],
        input_rows=manifest["input"]["rows"],
        input_columns=manifest["input"]["columns"],
        threshold=manifest["threshold"],
        top_k=manifest["top_k"],
        vote_mode=manifest["vote_mode"],
        temperature=manifest["calibration"]["temperature"],
        offset=manifest["calibration"]["offset"],
        manifest=manifest,
    )
    for name in manifest["files"]:
        package.read(name)
    return package


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise PackageError(
            f"{folder}: the model package lacks a readable {name} ({error.strerror}); name a complete package"
        ) from error


def _is_text(longest: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and 0 < len(value) <= longest


def _is_number(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: type(value) in (int, float) and low <= value <= high


def _are_files(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and MODEL in value
        and all(re.fullmatch(r"\w[\w.-]*", name) for name in value)
        and all(isinstance(digest, str) for digest in value.values())
    )


_LARGEST = 1e6
_FORMAT_1: dict[str, tuple[Callable[[Any], bool], str]] = {
    "format": (lambda value: value == 1, "1, the format this version reads,"),
    "task": (lambda value: value == "classification", "'classification'"),
    "name": (_is_text(64), "a text of 1-64 characters"),
    "version": (_is_text(32), "a text of 1-32 characters"),
    "classes": (lambda value: value in (["healthy", "ibd"], ["ibd", "healthy"]), "'healthy' and 'ibd'"),
    "positive": (lambda value: value == "ibd", "'ibd'"),
    "input.rows": (lambda value: value == VIEW_SIDE, f"{VIEW_SIDE}, as the cleaning crops,"),
    "input.columns": (lambda value: value == VIEW_SIDE, f"{VIEW_SIDE}, as the cleaning crops,"),
    "input.layout": (lambda value: value == "NHWC", "'NHWC'"),
    "input.dtype": (lambda value: value == "uint8", "'uint8'"),
    "input.colour": (lambda value: value == "RGB", "'RGB'"),
    "outputs": (
        lambda value: isinstance(value, list) and "logits" in value and all(x in _OUTPUTS for x in value),
        "'logits', and of 'cam' and 'embedding' what the graph gives,",
    ),
    "threshold": (_is_number(0.5, 1), "a number from 0.5 to 1"),
    "top_k": (lambda value: type(value) is int and value >= 1, "a whole number from 1"),
    "vote_mode": (lambda value: value in ("probabilities", "votes"), "'probabilities' or 'votes'"),
    "calibration.temperature": (_is_number(1 / _LARGEST, _LARGEST), "a positive number"),
    "calibration.offset": (_is_number(-_LARGEST, _LARGEST), "a number"),
    "preprocessing.recipe_digest": (
        lambda value: value == DEFAULT.digest,
        f"{DEFAULT.digest}, the digest of this version's cleaning recipe,",
    ),
    "files": (_are_files, f"the SHA-256 of {MODEL!r} and of each further file, by plain name,"),
}
"""Path in the manifest -> what holds of its value, and how to say so."""


def _checked(file: Path, manifest: Any) -> dict[str, Any]:
    known = {path.partition(".")[0] for path in _FORMAT_1} | _FREE
    if not isinstance(manifest, dict) or not known.issuperset(manifest):
        found = sorted(set(manifest) - known) if isinstance(manifest, dict) else type(manifest).__name__
        raise PackageError(f"{file}: an object of {', '.join(sorted(known))} was expected, {found} was found")
    whole = {**_DEFAULTS, **manifest}
    for path, (holds, expected) in _FORMAT_1.items():
        section, _, key = path.partition(".")
        value = whole.get(section)
        if key:
            value = value.get(key) if isinstance(value, dict) else None
        if not holds(value):
            raise PackageError(f"{file}: {path}: {expected} was expected, {value!r} was found")
    return whole
