"""``python -m models``: train, quantise, package, evaluate and compare classifiers."""

import importlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from models.cleaned import clean_each
from models.compare import compare
from models.compare import describe as describe_gain
from models.dataset import load_dataset
from models.errors import ModelError
from models.evaluate import describe, measure, predict, warnings_of, write_predictions
from models.package import load_package
from models.run_folder import to_json, write_run
from pipeline.clean.recipe import DEFAULT
from pipeline.errors import PipelineError
from pipeline.tools import open_cleaner

TRAINING_VERBS = {
    "train": "Train networks on the folds of a data set.",
    "quantize": "Turn a trained network into 8-bit integers.",
    "calibrate": "Fit temperature, offset, t and k.",
    "foreign": "Say how well frames of other kinds are told from those learnt from.",
    "package": "Write a package that a node can use.",
    "report": "Write what a run found as a page with pictures.",
}
"""Each has its options in the module of its name in `models.training`, as ``app``."""

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True
)


@app.callback()
def models() -> None:
    """Make classifiers and say how good they are. Research use, not a diagnosis."""


@app.command()
def evaluate(
    *,
    dataset: Annotated[
        Path, typer.Option(metavar="CSV", help="Table with columns patient, label, path and group.")
    ],
    root: Annotated[Path, typer.Option(metavar="DIR", help="Folder that the table's paths lie below.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder that frames.csv and patients.csv go to.")],
    package: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Model package.", show_default="the one that ships"),
    ] = None,
    columns: Annotated[
        str, typer.Option(metavar="OURS=THEIRS,...", help="Columns that have other names in the table.")
    ] = "",
    labels: Annotated[
        str, typer.Option(metavar="THEIRS=OURS,...", help="Labels other than `healthy` and `ibd`.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, not a table.")] = False,
) -> None:
    """Say how well a package reads a data set."""
    opened = load_package(package)
    frames = load_dataset(
        dataset, root, columns=read_pairs(columns, "--columns"), labels=read_pairs(labels, "--labels")
    )
    out.mkdir(parents=True, exist_ok=True)  # before the work, not after it
    said = predict(opened, frames, clean_each(frames, open_cleaner(DEFAULT)))
    metrics = measure(opened, frames, said)
    write_predictions(out, frames, said)
    settings = {"verb": "evaluate", "package": opened.folder, "dataset": dataset, "root": root,
                "columns": columns, "labels": labels}  # fmt: skip
    write_run(out, settings=settings, metrics=metrics, data_digest=frames.digest)
    for warning in warnings_of(metrics):
        typer.echo(f"warning: {warning}", err=True)
    typer.echo(to_json(metrics) if as_json else describe(metrics), nl=False)


@app.command("compare")
def compare_folders(
    *,
    before: Annotated[Path, typer.Option(metavar="DIR", help="Folder that evaluate wrote for one package.")],
    after: Annotated[Path, typer.Option(metavar="DIR", help="Folder that it wrote for the other.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, not a table.")] = False,
) -> None:
    """Say what one package gains over another."""
    found = compare(before, after)
    typer.echo(to_json(found) if as_json else describe_gain(found), nl=False)


def read_pairs(text: str, option: str) -> dict[str, str]:
    """Return ``a=b,c=d`` as a dictionary.

    Raises
    ------
    ModelError
        It is not of that form.
    """
    pairs = [pair.partition("=") for pair in text.split(",") if text]
    if any(not (name.strip() and value.strip()) for name, _, value in pairs):
        raise ModelError(f"{option}: name=value,name=value was expected, {text!r} was found")
    return {name.strip(): value.strip() for name, _, value in pairs}


def add_training_verb(verb: str, words: str) -> None:
    """Add a command that loads torch when it runs, so that all others do without."""

    @app.command(
        verb,
        help=words,
        add_help_option=False,  # the verb's own module answers --help
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )
    def run(context: typer.Context) -> None:
        try:
            module = importlib.import_module(f"models.training.{verb}")
        except ModuleNotFoundError as error:
            raise ModelError(
                f"{verb}: the package {error.name} was expected, it is not installed; "
                "run: pip install endonode[train]"
            ) from error
        module.app(context.args, prog_name=f"python -m models {verb}")


for _verb, _words in TRAINING_VERBS.items():
    if (Path(__file__).parent / "training" / f"{_verb}.py").is_file():
        add_training_verb(_verb, _words)


def main() -> None:
    """Run a command; an error is one line."""
    try:
        app(prog_name="python -m models")
    except (ModelError, PipelineError, OSError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")


if __name__ == "__main__":
    main()
