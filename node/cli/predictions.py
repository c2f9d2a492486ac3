"""`endonode predictions`, `quality` and `replay`: what was read is found, summed up and computed again."""

import inspect
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from db.filters import PredictionQuery
from node.cli.opening import Config, open_configured

DIFFERENT, PURGED = 3, 4
"""Exit statuses of `replay` beside 0; 1 and 2 are errors, as of every command."""


def _month(text: str) -> str:
    if re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", text) is None:
        raise typer.BadParameter("a calendar month was expected, such as 2026-03")
    return text


AsJson = Annotated[bool, typer.Option("--json", help="A JSON object.")]
File = Annotated[Path | None, typer.Option(metavar="FILE", help="Write all that are found to a file.")]
Month = Annotated[str | None, typer.Option(parser=_month, metavar="MONTH", help="YYYY-MM, UTC; included.")]


def predictions(
    *, as_json: bool, csv: Path | None, parquet: Path | None, config: Path | None, **asked: str | None
) -> None:
    """Find stored predictions, newest first: a page to look at, or all as a file."""
    from node.cli.tables import print_predictions
    from node.predictions import csv_lines, export, query_page, write_parquet

    try:
        query = PredictionQuery.model_validate(
            {name: value for name, value in asked.items() if value is not None}
        )
    except ValidationError as error:
        wrong = error.errors(include_input=False, include_url=False)[0]
        name = "".join(f"--{part}: ".replace("_", "-") for part in wrong["loc"])
        raise typer.BadParameter(f"{name}{wrong['msg']}") from None
    with open_configured(config) as node:
        if csv is not None:
            with csv.open("w", encoding="utf-8", newline="") as text:
                text.writelines(csv_lines(export(node, query, form="csv")))
        if parquet is not None:
            with parquet.open("wb") as file:
                write_parquet(file, export(node, query, form="parquet"))
        if csv is None and parquet is None:
            page = query_page(node, query)
            typer.echo(json.dumps(page, indent=2)) if as_json else print_predictions(page)


def _parameter(name: str, annotation: Any, default: Any = None) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


predictions.__signature__ = inspect.Signature([  # type: ignore[attr-defined]  # an option a field, all text
    *(
        _parameter(name, Annotated[str | None, typer.Option(help=field.description)])
        for name, field in PredictionQuery.model_fields.items()
    ),
    _parameter("as_json", AsJson, default=False),
    _parameter("csv", File),
    _parameter("parquet", File),
    _parameter("config", Config),
])  # fmt: skip


def quality(
    *,
    since: Month = None,
    until: Month = None,
    reference_since: Month = None,
    reference_until: Month = None,
    config: Config = None,
) -> None:
    """Print agreement with reviewers, abstention and drift, as JSON."""
    from node.quality import ask_quality

    reference = (reference_since, reference_until)
    with open_configured(config) as node:
        found = ask_quality(node, months=(since, until), reference=reference if any(reference) else None)
    typer.echo(json.dumps(asdict(found), indent=2))


def replay(
    exam: Annotated[str, typer.Argument(metavar="EXAM", help="Exam id.")],
    package: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Model package; without it, the one in force.")
    ] = None,
    config: Config = None,
) -> None:
    """Read an exam once more and compare it, bit for bit, with what is stored; nothing is changed.

    Exit status 0: the same; 3: not the same; 4: its instances are purged.
    """
    from node.replay import replay as run

    with open_configured(config) as node:
        found = run(node, exam, package_dir=package)
    if found.outcome == "instances purged":
        typer.echo(f"exam {exam}: instances purged; nothing is left to compute from")
        raise typer.Exit(PURGED)
    typer.echo(
        f"exam {exam}: package {found.model_digest[:12]}, {found.frames} frames\n"
        f"stored: {found.reading}, {found.probability!r}\n"
        f"now:    {found.reading_now}, {found.probability_now!r}"
    )
    if found.outcome == "different":
        typer.echo(f"not the same: {', '.join(found.differing)}; {found.frames_differing} frames differ")
        raise typer.Exit(DIFFERENT)
    typer.echo("the same, bit for bit: reading, probability, frames, evidence")
