"""What a run leaves beside its results: settings, figures, and the versions and data that they rest on."""

import csv
import io
import json
import os
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Any


def write_run(
    folder: Path, *, settings: Mapping[str, Any], metrics: Mapping[str, Any], data_digest: str
) -> None:
    """Write ``settings.json``, ``metrics.json``, ``metrics.csv`` (``name,value``) and ``versions.json``."""
    versions = {
        "python": platform.python_version(),
        "machine": {"system": platform.platform(), "processor": _processor(), "cores": os.cpu_count()},
        "packages": dict(sorted((each.name, each.version) for each in distributions())),
        "data_digest": data_digest,
    }
    for name, content in (("settings", settings), ("metrics", metrics), ("versions", versions)):
        write_whole(folder / f"{name}.json", to_json(content))
    write_table(folder / "metrics.csv", ("name", "value"), _flat(metrics))


def to_json(content: Mapping[str, Any]) -> str:
    """Return JSON; a path is its text, and a number that is none is refused."""
    return json.dumps(content, indent=1, default=os.fspath, allow_nan=False) + "\n"


def write_table(file: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV table; None is an empty cell, and a float keeps every digit."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_whole(file, text.getvalue())


def write_whole(file: Path, text: str) -> None:
    """Write a file, and its folder; an interrupted write leaves the last whole one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(file)


def _flat(content: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, object]]:
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{within}{name}.")
        else:
            yield within + name, value


def _processor() -> str:
    """Return the processor's name, on which the speed and the last bits of a figure depend."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
