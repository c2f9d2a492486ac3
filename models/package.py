"""A classifier's package: what its manifest, ``model.json``, must hold besides every file's SHA-256."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from models.errors import PackageError
from pipeline.clean.crop import VIEW_SIDE
from pipeline.clean.recipe import DEFAULT, Recipe
from pipeline.network_package import (
    MANIFEST,
    MODEL,
    NetworkPackage,
    NetworkPackageError,
    Rules,
    open_network_package,
)

__all__ = ["MANIFEST", "MODEL", "REFERENCE", "Package", "VoteMode", "load_package"]

VoteMode = Literal["probabilities", "votes"]

REFERENCE = Path(__file__).parent / "reference"

DEFAULT_THRESHOLD, DEFAULT_TOP_K = 0.93, 6
"""For a package that names none: the t and k that Datres et al. 2023 chose."""

_DEFAULTS = {
    "threshold": DEFAULT_THRESHOLD,
    "top_k": DEFAULT_TOP_K,
    "vote_mode": "probabilities",
    "foreign": None,
}
_OUTPUTS = ("logits", "cam", "embedding")


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
    foreign_file, foreign_threshold
        What tells foreign frames (`models.ood`), and the score above which one is; None where the package
        tells none.
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
    foreign_file: str | None = None
    foreign_threshold: float | None = None

    def read(self, name: str) -> bytes:
        """Return a file of the package, whose digest is checked on the very bytes returned.

        Raises
        ------
        PackageError
            The file is missing or its bytes are not those the manifest vouches for.
        """
        try:
            return NetworkPackage(self.folder, self.digest, self.manifest).read(name)
        except NetworkPackageError as error:
            raise PackageError(str(error)) from error


def load_package(folder: Path | None, recipe: Recipe = DEFAULT) -> Package:
    """Read and check the package in `folder`; None means the reference package that ships.

    It must have been made with frames cleaned by the recipe that it is to be used with.

    Raises
    ------
    PackageError
        A file is missing or altered, or the package is of another format, task, class set, input or cleaning.
    """
    folder = REFERENCE if folder is None else folder
    try:
        opened = open_network_package(folder, rules={**_RULES, **_made_with(recipe)}, defaults=_DEFAULTS)
    except NetworkPackageError as error:
        raise PackageError(str(error)) from error
    manifest = opened.manifest
    foreign = manifest["foreign"] or {}
    if foreign.get("file", MODEL) not in manifest["files"]:
        raise PackageError(
            f"{folder / MANIFEST}: a digest of {foreign['file']!r} was expected, none was found"
        )
    return Package(
        folder=folder,
        digest=opened.digest,
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
        foreign_file=foreign.get("file"),
        foreign_threshold=foreign.get("threshold"),
    )


def _is_number(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: type(value) in (int, float) and low <= value <= high


def _tells_foreign(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"score", "file", "threshold"}
        and value["score"] == "colours"
        and isinstance(value["file"], str)
        and _is_number(0, _LARGEST)(value["threshold"])
    )


_LARGEST = 1e6
_RULES: Rules = {
    "task": (lambda value: value == "classification", "'classification'"),
    "classes": (lambda value: value in (["healthy", "ibd"], ["ibd", "healthy"]), "'healthy' and 'ibd'"),
    "positive": (lambda value: value == "ibd", "'ibd'"),
    "input.rows": (lambda value: value == VIEW_SIDE, f"{VIEW_SIDE}, as the cleaning crops,"),
    "input.columns": (lambda value: value == VIEW_SIDE, f"{VIEW_SIDE}, as the cleaning crops,"),
    "outputs": (
        lambda value: isinstance(value, list) and "logits" in value and all(x in _OUTPUTS for x in value),
        "'logits', and of 'cam' and 'embedding' what the graph gives,",
    ),
    "threshold": (_is_number(0.5, 1), "a number from 0.5 to 1"),
    "top_k": (lambda value: type(value) is int and value >= 1, "a whole number from 1"),
    "vote_mode": (lambda value: value in ("probabilities", "votes"), "'probabilities' or 'votes'"),
    "calibration.temperature": (_is_number(1 / _LARGEST, _LARGEST), "a positive number"),
    "calibration.offset": (_is_number(-_LARGEST, _LARGEST), "a number"),
    "foreign": (
        lambda value: value is None or _tells_foreign(value),
        "a 'score' 'colours', its 'file' and a 'threshold', or nothing,",
    ),
}


def _made_with(recipe: Recipe) -> Rules:
    return {
        "preprocessing.recipe_digest": (
            lambda value: value == recipe.digest,
            f"{recipe.digest}, the digest of the cleaning recipe in use,",
        )
    }
