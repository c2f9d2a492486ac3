"""``python -m pipeline``: the cleaning on folders, without a node."""

import sys
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import cv2
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline.clean.recipe import load_recipe
from pipeline.errors import PipelineError
from pipeline.folder import clean_folder, list_items
from pipeline.tools import open_cleaner

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True
)


class Geometry(StrEnum):
    """Of what is written to ``clean``: the source's own, or the model's input."""

    source = "source"
    model = "model"


@app.callback()
def pipeline() -> None:
    """Clean endoscopic frames: borders, blur, burnt-in text and instruments."""


@app.command()
def clean(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Folder, or one file, of images or DICOM.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder that is written to.")],
    recipe: Annotated[
        Path | None,
        typer.Option(
            help="TOML file that names steps and settings (docs/cleaning.md).", show_default="the node's"
        ),
    ] = None,
    geometry: Annotated[
        Geometry,
        typer.Option(help="`source` leaves out the final crop, so that clean and mask align with IN."),
    ] = Geometry.model,
) -> None:
    """Write OUT/clean, OUT/mask, OUT/ledger.jsonl and OUT/contact-sheet.png."""
    console = Console(stderr=True)
    cv2.setNumThreads(1)
    chosen = load_recipe(recipe)
    if geometry is Geometry.source:
        chosen = replace(chosen, steps=tuple(step for step in chosen.steps if step != "crop"))
    items = list_items(source)
    cleaner = open_cleaner(chosen)
    columns = (TextColumn("cleaning"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(items))
        summary = clean_folder(items, out, cleaner, on_frame=lambda: progress.advance(task))
    rejected = summary.frames - summary.kept - summary.undecodable
    console.print(
        f"{summary.frames} frames: {summary.kept} kept, {rejected} rejected, "
        f"{summary.undecodable} undecodable; {out / 'contact-sheet.png'}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    if summary.undecodable:
        raise typer.Exit(1)


def main() -> None:
    """Run a command; an error is one line."""
    try:
        app(prog_name="python -m pipeline")
    except (PipelineError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
