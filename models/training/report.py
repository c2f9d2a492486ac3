"""``python -m models report``: a run's figures as one page with pictures, and as tables in Markdown.

Nothing is computed here: what is shown stands in the run's ``figures.json``, ``grid.csv`` and tables. The
words are in ``report.md.j2``, from which both are made; ``report.html.j2`` is the page around them.
"""

import base64
import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import onnxruntime as ort
import typer
from jinja2 import Environment, StrictUndefined, UndefinedError
from markdown_it import MarkdownIt
from markupsafe import Markup
from matplotlib.figure import Figure

from models.card import caveats, table, tables, text
from models.dataset import CLASSES
from models.errors import ModelError
from models.grid import DRAWS
from models.run_folder import write_whole
from models.training.plots import draw_curves, draw_evidence, draw_grid
from models.training.run import OUTER, Fit, Frames, load_frames, read_margins, read_plan

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

DOTS = 160
"""An inch of a picture; the page shows it 100 of its pixels wide."""

WORDS = {"mcc": "MCC", "auroc": "AUROC", "fpr95": "FPR95"}


@app.command()
def report(
    *,
    run: Annotated[Path, typer.Option(metavar="DIR", help="Run folder that calibrate wrote to.")],
    findings: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Markdown: what fell short, and what was tried.")
    ] = None,
    results: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the tables there too, in Markdown.")
    ] = None,
) -> None:
    """Write report.html and plots/ into the folder of a run."""
    plan = read_plan(run)
    frames = load_frames(plan, run)
    metrics, chosen, versions = (
        json.loads(_read(run / f"{name}.json")) for name in ("figures", "calibration", "versions")
    )
    cells = csv.DictReader(io.StringIO(_read(run / "grid.csv")))
    grids = {bag: [*rows] for bag, rows in groupby(cells, lambda row: row["bag"])}
    examples = list(choose_examples(run, frames))
    try:
        content = {
            "m": metrics, "shown": tables(metrics), "caveats": caveats(metrics), "grids": grids,
            "draws": DRAWS, "chosen": chosen, "examples": examples, "plan": plan, "digest": frames.digest,
            "versions": versions, "findings": _read(findings) if findings else None,
        }  # fmt: skip
        pictures = {
            **draw(metrics),
            **{f"grid-{bag}": draw_grid(rows, chosen=chosen) for bag, rows in grids.items()},
            **{f"example-{number}": draw_evidence(*each["pixels"]) for number, each in enumerate(examples)},
        }
        write_whole(run / "report.html", as_page(content, pictures, run / "plots"))
        if results:
            write_whole(results, as_markdown({**content, "examples": ()}, lambda *_: ""))
    except (KeyError, UndefinedError) as error:
        raise ModelError(
            f"{run / 'figures.json'}: every figure of this version was expected: {error}; run calibrate again"
        ) from error


def as_page(content: Mapping[str, Any], pictures: Mapping[str, Figure], plots: Path) -> str:
    """Return the page, which loads no other file, and write its pictures to the folder `plots` too."""
    plots.mkdir(exist_ok=True)

    def show(name: str, alt: str, caption: str) -> str:
        """Return a figure as one block: a blank line would end it as HTML."""
        pictures[name].savefig(plots / f"{name}.png", dpi=DOTS, metadata={"Software": None})
        png = base64.b64encode((plots / f"{name}.png").read_bytes()).decode()
        return Markup(
            '<figure style="--width: {:.0f}px"><img alt="{}" src="data:image/png;base64,{}">\n'
            "<figcaption>{}</figcaption></figure>\n"
        ).format(100 * pictures[name].get_figwidth(), alt, png, caption)

    html = MarkdownIt().enable("table").render(as_markdown(content, show))
    html = html.replace("<th>", '<th scope="col">').replace("</table>", "</table></div>")
    title, html = re.split("</?h1>", html.replace("<table>", '<div class="wide" tabindex="0"><table>'))[1:]
    heads = re.findall("<h2>(.*?)</h2>", html)
    for number, head in enumerate(heads):
        html = html.replace(f"<h2>{head}</h2>", f'<h2 id="part-{number}">{head}</h2>', 1)
    return _render("html", {"title": title, "heads": heads, "body": html})


def as_markdown(content: Mapping[str, Any], show: Callable[..., str]) -> str:
    """Return the text; `show` gives what stands for a picture, by name, words in its place and caption."""
    named = {**content, "show": show, "text": text, "cell": cell, "matrix": matrix}
    return re.sub(r"\n{3,}", "\n\n", _render("md", named))


def _render(ending: str, content: Mapping[str, Any]) -> str:
    template = _read(Path(__file__).with_suffix(f".{ending}.j2"))
    pages = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    return pages.from_string(template).render(content) + "\n"


def matrix(corner: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a Markdown table of ``{row: {column: number, text or figure}}``."""
    columns = [*dict.fromkeys(column for row in rows.values() for column in row)]
    names = (corner, *(WORDS.get(column, column.replace("_", " ")) for column in columns))
    return table(names, *((name, *(cell(row.get(each)) for each in columns)) for name, row in rows.items()))


def cell(value: Any) -> str:
    """Return a number, a text or a figure as a table shows it; None is a dash."""
    if isinstance(value, Mapping):
        return text(value)
    return f"{value:.3f}" if isinstance(value, float) else "-" if value is None else str(value)


def draw(metrics: Mapping[str, Any]) -> dict[str, Figure]:
    """Return the curves."""
    risks = {"frames": metrics["selective"]["frames"]["curve"], "bags": metrics["selective"]["curve"]}
    wrongly = "share of those read wrongly"
    return {
        "roc": draw_curves(metrics["roc"], across="1 - specificity", up="sensitivity", square=True),
        "reliability": draw_curves(
            metrics["reliability"],
            across="mean probability of IBD",
            up="share of frames with IBD",
            square=True,
            marker="o",
        ),
        **{
            f"risk-{name}": draw_curves({"int8": risk}, across=f"coverage: share of {name} read", up=wrongly)
            for name, risk in risks.items()
        },
    }


def choose_examples(run: Path, frames: Frames) -> Iterator[dict[str, Any]]:
    """Yield frames that show what the first seed's 8-bit networks do where they had not learnt.

    Of each class the surest of those read rightly, the surest of those read wrongly, and the least sure: what
    it is and was read as, and in ``pixels`` its view and the ``(h, w)`` activations of the class read.
    """
    rows = read_margins(run / "oof_int8.csv")
    for row in rows:
        row["logit"] = (row["margin"] + float(row["offset"])) / float(row["temperature"])
        row["read_as"] = CLASSES[row["logit"] >= 0]
    of_first = [row for row in rows if row["seed"] == rows[0]["seed"]]
    places = {row.path: place for place, row in enumerate(frames.rows)}
    for label in CLASSES:
        of_class = [row for row in of_first if row["label"] == label]
        right = [row for row in of_class if row["read_as"] == label]
        wrong = [row for row in of_class if row["read_as"] != label]
        for why, among, pick in (
            ("the surest read rightly", right, max),
            ("the surest read wrongly", wrong, max),
            ("the least sure", of_class, min),
        ):
            if among:
                row = pick(among, key=lambda each: abs(each["logit"]))
                place = places[row["path"]]
                view, network = frames.views[place], Fit(row["fold"], row["seed"], OUTER).name
                session = ort.InferenceSession(run / "models" / f"{network}.onnx")
                ((maps,),) = session.run(["cam"], {session.get_inputs()[0].name: view[None]})
                pixels = (view, maps[CLASSES.index(row["read_as"])])
                probability = 1 / (1 + math.exp(-row["logit"]))
                yield {**row, "why": why, "probability": probability, "pixels": pixels,
                       "sha256": frames.rows[place].sha256}  # fmt: skip


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise ModelError(f"{file}: a file was expected, none can be read; run calibrate first") from error
