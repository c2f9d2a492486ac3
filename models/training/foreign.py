"""``python -m models foreign``: how well frames of other kinds are told from those learnt from.

Every network and every table of colours reads the fold that it never saw, beside frames of other kinds which
are encoded as the known ones were. No frame of another kind takes part in a score or its threshold.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import typer
from PIL import Image
from rich.console import Console
from rich.progress import track

from models.cleaned import load_cleaned
from models.counts import Floats
from models.dataset import Dataset, load_dataset
from models.errors import ModelError
from models.ood import (
    COLUMNS,
    KNOWN,
    choose_threshold,
    distances,
    energy,
    foreign_figures,
    learn_rarity,
    rarity,
    read_foreign,
)
from models.patient import calibrate
from models.run_folder import to_json, write_table, write_whole
from models.training.learner import keep_freed_memory
from models.training.quantising import margin, read_int8
from models.training.run import OUTER, Frames, fits, load_frames, read_margins, read_plan

TABLE = "foreign.csv"

SETS = {
    "capsule": "crohnipi/*/*.jpg",
    "stool": "other/impacted-stool/*.jpg",
    "polyps": "other/polyp/*.jpg",
    "bbps-0-1": "other/bbps-0-1/*.jpg",
    "hemorrhoids": "other/hemorrhoids/*.jpg",
}
"""Of the research images: another organ by another device, then the colon unclean or with another finding."""

SIDE, QUALITY = 256, 75
"""The known frames were resized to this square, bicubic, and encoded as JPEG of this quality."""

NEIGHBOUR = 5

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def foreign(
    *,
    run: Annotated[Path, typer.Option(metavar="DIR", help="Run folder that calibrate wrote to.")],
    data: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the research frames.")],
) -> None:
    """Score known and foreign frames by every network of a run: foreign.csv, its figures in figures.json."""
    keep_freed_memory()
    plan = read_plan(run)
    frames = load_frames(plan, run)
    others = encode_as_known(data / "images", run / "cache" / "foreign")
    cleaned = load_cleaned(others, run / "cache")
    views = cleaned.views[cleaned.kept]
    met = [(row.kind, row.path) for row, kept in zip(others.frames, cleaned.kept, strict=True) if kept]
    chosen = {(row["seed"], row["fold"]): row for row in read_margins(run / "oof_int8.csv")}
    rows: list[tuple[Any, ...]] = []
    asked = [fit for fit in fits(plan, frames) if fit.part == OUTER]
    for fit in track(asked, "reading", console=Console(stderr=True), transient=True):
        learnt, left_out = (frames.views[each(frames.folds)] for each in (fit.learns, fit.scores))
        colours = learn_rarity(learnt)
        model = onnx.load(run / "models" / f"{fit.name}.onnx")
        bank = read_int8(model, learnt)["embedding"]
        row = chosen[fit.seed, fit.fold]
        known = [(KNOWN, frames.rows[place].path) for place in np.flatnonzero(fit.scores(frames.folds))]
        for named, shown in ((known, left_out), (met, views)):
            said = read_int8(model, shown)
            probabilities = calibrate(
                margin(said["logits"]), temperature=float(row["temperature"]), offset=float(row["offset"])
            )
            scores = (
                rarity(shown, colours),
                energy(said["logits"]),
                distances(said["embedding"], bank, k=NEIGHBOUR),
                probabilities,
            )
            values = np.stack(scores, axis=1).round(6).tolist()
            rows += [
                (fit.seed, fit.fold, *name, *of_frame, row["threshold"])
                for name, of_frame in zip(named, values, strict=True)
            ]
    write_table(run / TABLE, COLUMNS, rows)
    table = read_foreign(run / TABLE)
    found = foreign_figures(table)
    figures = json.loads((run / "figures.json").read_bytes())
    write_whole(run / "figures.json", to_json({**figures, "foreign": found}))
    sys.stdout.write(
        to_json({"colours": found, **{s: foreign_figures(table, score=s) for s in COLUMNS[5:7]}})
    )


def left_out_scores(frames: Frames) -> Floats:
    """Return ``(N,)``: how rare each frame's colours are among the frames of the other folds."""
    found = np.empty(len(frames.rows))
    for fold in np.unique(frames.folds):
        out = frames.folds == fold
        found[out] = rarity(frames.views[out], learn_rarity(frames.views[~out]))
    return found


def choose_for_all(frames: Frames) -> float:
    """Return the threshold that a package ships with."""
    return round(choose_threshold(left_out_scores(frames)), 4)


def encode_as_known(images: Path, out: Path) -> Dataset:
    """Write the frames of `SETS` as the known ones were encoded; return them, their set as kind.

    Raises
    ------
    ModelError
        A set has no frame there.
    """
    rows = []
    for name, pattern in SETS.items():
        if not (files := sorted(images.glob(pattern))):
            raise ModelError(f"{images / pattern}: frames were expected, none was found; look at --data")
        for file in files:
            path = f"{name}/{file.stem}.jpg"
            (out / name).mkdir(parents=True, exist_ok=True)
            square = Image.open(file).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            square.save(out / path, quality=QUALITY)
            rows.append((path, "healthy", path, path, name))  # the label means nothing here
    write_table(out / "frames.csv", ("patient", "label", "path", "group", "kind"), rows)
    return load_dataset(out / "frames.csv", out)
