"""A network's package: a folder whose manifest, ``model.json``, vouches for every file by its SHA-256."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError

MANIFEST = "model.json"
MODEL = "model.onnx"

Rules = Mapping[str, tuple[Callable[[Any], bool], str]]
"""Path in the manifest -> what holds of its value, and how to say so."""


class NetworkPackageError(PipelineError):
    """A network's package is incomplete, altered, or made for another task, format or input."""


@dataclass(frozen=True, slots=True)
class NetworkPackage:
    """A checked package.

    Attributes
    ----------
    digest
        SHA-256 of the bytes of ``model.json``, which holds every other file's: it names the package.
    manifest
        All of ``model.json``, and the default of what it leaves out.
    """

    folder: Path
    digest: str
    manifest: Mapping[str, Any]

    def read(self, name: str) -> bytes:
        """Return a file of the package, whose digest is checked on the very bytes returned.

        Raises
        ------
        NetworkPackageError
            The file is missing or its bytes are not those the manifest vouches for.
        """
        content = _read(self.folder, name)
        expected, found = self.manifest["files"][name], hashlib.sha256(content).hexdigest()
        if found != expected:
            raise NetworkPackageError(
                f"{self.folder / name}: SHA-256 {expected} was expected, {found} was found; "
                "restore the package's files"
            )
        return content


def open_network_package(
    folder: Path, *, rules: Rules, defaults: Mapping[str, Any] | None = None
) -> NetworkPackage:
    """Read and check the package in `folder`.

    Parameters
    ----------
    rules
        What its task asks of the manifest besides `FORMAT_1`.
    defaults
        Entries that a manifest may leave out.

    Raises
    ------
    NetworkPackageError
        A file is missing or altered, or the manifest holds what no rule or section for people names.
    """
    content = _read(folder, MANIFEST)
    try:
        manifest = json.loads(content)
    except ValueError as error:
        raise NetworkPackageError(f"{folder / MANIFEST}: JSON was expected: {error}") from error
    manifest = _checked(
        folder / MANIFEST, manifest, {"format": FORMAT_1["format"], **rules, **FORMAT_1}, defaults or {}
    )
    package = NetworkPackage(folder, hashlib.sha256(content).hexdigest(), manifest)
    for name in manifest["files"]:
        package.read(name)
    return package


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise NetworkPackageError(
            f"{folder}: the model package lacks a readable {name} ({error.strerror}); name a complete package"
        ) from error


def is_text(longest: int) -> Callable[[Any], bool]:
    """Return the rule of a text of 1 to `longest` characters."""
    return lambda value: isinstance(value, str) and 0 < len(value) <= longest


def _are_files(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and MODEL in value
        and all(re.fullmatch(r"\w[\w.-]*", name) for name in value)
        and all(isinstance(digest, str) for digest in value.values())
    )


FORMAT_1: Rules = {
    "format": (lambda value: value == 1, "1, the format this version reads,"),
    "name": (is_text(64), "a text of 1-64 characters"),
    "version": (is_text(32), "a text of 1-32 characters"),
    "input.layout": (lambda value: value == "NHWC", "'NHWC'"),
    "input.dtype": (lambda value: value == "uint8", "'uint8'"),
    "input.colour": (lambda value: value == "RGB", "'RGB'"),
    "files": (_are_files, f"the SHA-256 of {MODEL!r} and of each further file, by plain name,"),
}
"""What holds of every package."""

_FREE = {"quantisation", "training_data", "metrics"}
"""Sections for people; their form is not checked."""


def _checked(file: Path, manifest: Any, rules: Rules, defaults: Mapping[str, Any]) -> dict[str, Any]:
    known = {path.partition(".")[0] for path in rules} | _FREE
    if not isinstance(manifest, dict) or not known.issuperset(manifest):
        found = sorted(set(manifest) - known) if isinstance(manifest, dict) else type(manifest).__name__
        raise NetworkPackageError(
            f"{file}: an object of {', '.join(sorted(known))} was expected, {found} was found"
        )
    whole = {**defaults, **manifest}
    for path, (holds, expected) in rules.items():
        section, _, key = path.partition(".")
        value = whole.get(section)
        if key:
            value = value.get(key) if isinstance(value, dict) else None
        if not holds(value):
            raise NetworkPackageError(f"{file}: {path}: {expected} was expected, {value!r} was found")
    return whole
