"""What quantising costs the reference network, by method and width: ``make quant-study RUN=DIR``.

Of one seed of a run, the network of each fold is quantised on frames it learnt from and reads the fold it
never saw, in ONNX Runtime's kernels; fewer than 8 bits run in the same kernels, clipped
(`models.training.kernels` gives the same; `equalised` networks, whose ReLU6 ends elsewhere for each channel,
are read by these).

Every probability is calibrated by temperature and offset of the *float* run (RUN/oof_float.csv, fitted
without the scored fold), the threshold is 0.5: what a method shifts is not mended by fitting anew. Training
after calibration changes the stages that the float training changed; those before stay as calibrated, at the
same width; `whole` trains all, on one fold. An order is claimed where the paired 90 % bootstrap interval over
pseudo-patients excludes 0.

A line of RUN/quant-study.jsonl is written as each cell is done; a second call goes on. The result is
docs/results/quant-study.json, and its tables docs/results/quant-study.md.
"""

import argparse
import csv
import hashlib
import itertools
import json
import multiprocessing
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from models.figures import bootstrap, change, frame_statistic
from models.patient import DECISION, calibrate
from models.run_folder import to_json, write_whole
from models.training.export import export_twin
from models.training.learner import keep_freed_memory
from models.training.network import Network, resnet50_network
from models.training.quantising import Quantising, margin, quantise, read_int8, read_twin, spare
from models.training.run import OUTER, Fit, Frames, Plan, load_frames, read_plan
from models.training.sensitivity import read
from models.training.train import build, load_network
from models.training.twin import paper_choice

SEED, SETS = 0, range(5)
WIDTHS = ((8, 8), (4, 8), (4, 4))
RESNET50, RESNET50_SIDE = "resnet50-reference.pt", 96
SQUARES = {"rule": "least_squares"}
METHODS: dict[str, dict[str, Any]] = {
    "min_max": {},
    "mse": SQUARES,
    "corrected": {**SQUARES, "corrects_bias": True},
    "equalised": {**SQUARES, "corrects_bias": True, "equalises": True},
    "adaround": {**SQUARES, "rounding": "adaptive", "iterations": 1000},
    "qat": {**SQUARES, "method": "qat"},
    "pact": {**SQUARES, "method": "pact"},
    "lsq": {**SQUARES, "method": "lsq"},
    "sensitive": {"budget": 0.5},
    "paper": {},
    "integers": {"keep_float": ()},
}
AFTERWARDS, TRAINED = ("min_max", "mse", "corrected"), ("qat", "pact", "lsq")
PAIRS = (
    ("min_max", "mse"), ("mse", "corrected"), ("corrected", "equalised"), ("corrected", "qat"),
    ("qat", "pact"), ("qat", "lsq"), ("pact", "lsq"), ("min_max", "paper"), ("paper", "sensitive"),
)  # fmt: skip
GUESS = {"float": 6, "equalised": 35, "adaround": 900, "qat": 95, "pact": 95, "lsq": 105, "sensitive": 160}
"""Seconds of a core that a cell takes, until one like it was measured; the others some 14."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One network, quantised in one way."""

    method: str
    bits: tuple[int, int] = (8, 8)
    fold: int = 0
    draw: int = 0
    whole: bool = False
    backbone: str = "mobilenet_v2"

    @property
    def kind(self) -> str:
        """Cells of a kind take about as long."""
        return f"{self.backbone}-{self.method}-{self.whole}"


def cells(folds: Iterable[int], *, resnet50: bool) -> list[Cell]:
    """Return every cell; the longest come first, so that no core waits for one at the end."""
    folds = list(folds)
    found = [
        Cell("adaround", (4, 8), folds[0]),
        *(Cell(name, (4, 4), folds[0], whole=True) for name in TRAINED),
    ]
    found += [Cell(method, fold=fold) for method, fold in itertools.product(("sensitive", "paper"), folds)]
    found += [Cell(name, bits, fold) for name, bits, fold in itertools.product(TRAINED, WIDTHS, folds)]
    found += [Cell(name, (4, 4), folds[0], draw) for name, draw in itertools.product(TRAINED, SETS) if draw]
    found += [Cell("equalised", bits, fold) for bits, fold in itertools.product(WIDTHS, folds)]
    found += [
        Cell(method, bits, fold, draw)
        for draw, method, bits, fold in itertools.product(SETS, AFTERWARDS, WIDTHS, folds)
    ]
    found += [Cell("float", fold=fold) for fold in folds]
    if resnet50:
        methods = ("float", "integers", "paper", "sensitive")
        found += [Cell(method, backbone="resnet50", fold=folds[0]) for method in methods]
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Study:
    """What every cell needs."""

    run: Path
    plan: Plan
    frames: Frames
    network: Network

    def file(self, cell: Cell) -> Path:
        """Return the weights that a cell starts from."""
        name = RESNET50 if cell.backbone == "resnet50" else f"models/{Fit(cell.fold, SEED, OUTER).name}.pt"
        return self.run / name


def digest(weights: Path) -> str:
    """Return what tells a file from that of another training."""
    return hashlib.sha256(weights.read_bytes()).hexdigest()[:16]


def open_study(run: Path) -> Study:
    """Read a run."""
    keep_freed_memory()
    torch.set_num_threads(1)
    plan = read_plan(run)
    return Study(run, plan, load_frames(plan, run), build(plan))


HERE: list[Study] = []
"""In a worker: its study."""


def start(run: Path) -> None:
    """Make a worker ready."""
    HERE.append(open_study(run))


def shrink(views: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Return ``(N, side, side, 3)``, by area."""
    return np.stack([cv2.resize(view, (side, side), interpolation=cv2.INTER_AREA) for view in views])


def measure(cell: Cell) -> dict[str, Any]:
    """Return the margins of the frames of the fold that a cell's network never saw."""
    (study,) = HERE
    started, frames = time.process_time(), study.frames
    fit = Fit(cell.fold, SEED, OUTER)
    learns, scores, views = fit.learns(frames.folds), fit.scores(frames.folds), frames.views
    trained, frozen = study.network, study.plan.settings.frozen
    if cell.backbone == "resnet50":
        trained, views = resnet50_network(2), shrink(views, RESNET50_SIDE)
    trained = load_network(trained, study.file(cell))
    shown, labels, asked = views[learns], frames.labels[learns], views[scores]
    line: dict[str, Any] = {**asdict(cell), "weights": digest(study.file(cell))}
    if cell.method == "float":
        line["margins"] = _margins(read_float(trained, asked))
        return line | {"seconds": time.process_time() - started}
    how = replace(
        Quantising(), weight_bits=cell.bits[0], activation_bits=cell.bits[1], draw=cell.draw,
        trained_from=0 if cell.whole else frozen, **METHODS[cell.method],
    )  # fmt: skip
    if cell.method == "paper":
        how = replace(how, keep_float=tuple(paper_choice(trained)))
    if cell.backbone == "resnet50" and cell.method == "sensitive":
        how = replace(how, keep_float=())
    if how.budget is not None:
        how, rows = spare(trained, shown, how)
        line["choices"] = rows
    twin = quantise(trained, shown, labels, how, seed=SEED)
    if how.equalises:
        found = read_twin(twin, asked)
    else:
        side = asked.shape[1]
        found = read_int8(export_twin(twin, rows=side, columns=side, outputs=NAMES), asked)["logits"]
    line["margins"] = _margins(found)
    line["seconds"] = time.process_time() - started
    if cell == Cell("min_max", fold=cell.fold):
        line |= {"twin": _margins(read_twin(twin, asked)), "float_twin": _margins(read_float(twin, asked))}
    return line


NAMES = ("logits", "cam", "embedding")


def read_float(network: torch.nn.Module, views: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return logits as float arithmetic gives them."""
    batches = [_batch(views[at : at + 8]) for at in range(0, len(views), 8)]
    return np.asarray(read(network, batches).numpy())


def _batch(views: NDArray[np.uint8]) -> torch.Tensor:
    return ((torch.from_numpy(views).float() - 128) / 128).permute(0, 3, 1, 2)


def _margins(logits: NDArray[np.float32]) -> list[float]:
    return [round(float(each), 5) for each in margin(logits)]


def run_cells(study: Study, *, jobs: int) -> list[dict[str, Any]]:
    """Measure every cell that the run folder does not hold yet; return the lines of all."""
    file = study.run / "quant-study.jsonl"
    resnet50 = (study.run / RESNET50).exists()
    if not resnet50:
        say(f"ResNet50 left out: {study.run / RESNET50} is not there; run make resnet50-reference first")
    wanted = cells(range(int(study.frames.folds.max()) + 1), resnet50=resnet50)
    digests = {weights: digest(weights) for weights in {study.file(cell) for cell in wanted}}
    lines = {}
    for text in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        line = json.loads(text)
        cell = Cell(**{name: line[name] for name in Cell.__slots__} | {"bits": tuple(line["bits"])})
        if cell in wanted and line["weights"] == digests[study.file(cell)]:
            lines[cell] = line
    left = [cell for cell in wanted if cell not in lines]
    spent = defaultdict(list)
    for cell, line in lines.items():
        spent[cell.kind].append(line["seconds"])
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, start, (study.run,)) as pool, file.open("a") as out:
        tasks = {pool.submit(measure, cell): cell for cell in left}
        for task in as_completed(tasks):
            cell, text = tasks[task], json.dumps(task.result())
            out.write(text + "\n")
            out.flush()
            lines[cell] = line = json.loads(text)
            spent[cell.kind].append(line["seconds"])
            left.remove(cell)
            minutes = sum(_seconds(each, spent) for each in left) / jobs / 60
            say(f"{len(lines)} of {len(wanted)} cells, about {minutes:.0f} minutes left")
    return [lines[cell] for cell in wanted]


def _seconds(cell: Cell, spent: dict[str, list[float]]) -> float:
    known = spent[cell.kind]
    guess = GUESS.get(cell.method, 14) * (4 if cell.whole else 1)
    return float(np.mean(known)) if known else guess


def say(text: str) -> None:
    """Tell who waits."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """Cells of one method and width: ``(sets, N)`` probabilities of the frames at ``places``, ascending."""

    probabilities: NDArray[np.float64]
    places: NDArray[np.int64]


def gather(study: Study, lines: Sequence[dict[str, Any]], *, key: str = "margins") -> Read:
    """Calibrate margins as the float run was, and put the folds together."""
    fitted = [_fitted(study, line) for line in lines]
    folds, draws = (sorted({line[name] for line in lines}) for name in ("fold", "draw"))
    rows = [
        np.concatenate(
            [
                calibrate(np.array(line[key]), **words)
                for fold in folds
                for line, words in zip(lines, fitted, strict=True)
                if (line["fold"], line["draw"]) == (fold, draw)
            ]
        )
        for draw in draws
    ]
    places = np.concatenate([np.flatnonzero(study.frames.folds == fold) for fold in folds])
    table_order = np.argsort(places)
    return Read(np.array(rows)[:, table_order], places[table_order])


def _fitted(study: Study, line: dict[str, Any]) -> dict[str, float]:
    """Return temperature and offset of the float network that a cell starts from."""
    if line["backbone"] == "resnet50":
        found = json.loads((study.run / RESNET50).with_suffix(".json").read_text(encoding="utf-8"))
    else:
        of_fold = {"seed": str(SEED), "fold": str(line["fold"])}.items()
        with (study.run / "oof_float.csv").open(newline="", encoding="utf-8") as table:
            found = next(row for row in csv.DictReader(table) if of_fold <= row.items())
    return {name: float(found[name]) for name in ("temperature", "offset")}


def of_cells(study: Study, found: Read, before: Read) -> dict[str, Any]:
    """Return AUC and MCC, a mean over sets and its spread, and what changed beside the float network."""
    places = found.places
    base = before.probabilities[0, np.searchsorted(before.places, places)]
    statistics = [_statistic(study, row[None], places) for row in found.probabilities]
    size = len({study.frames.rows[place].patient for place in places})
    of_sets = [{name: float(x[0]) for name, x in each(np.ones((1, size))).items()} for each in statistics]
    flips = ((found.probabilities >= DECISION) != (base >= DECISION)).sum(1)
    result: dict[str, Any] = {
        name: round(float(np.mean([each[name] for each in of_sets])), 4) for name in ("auc", "mcc")
    }
    if len(of_sets) > 1:
        deviations = {name: np.std([each[name] for each in of_sets], ddof=1) for name in ("auc", "mcc")}
        result |= {f"{name}_sd_of_sets": round(float(value), 4) for name, value in deviations.items()}
    return result | {
        "sets": len(of_sets),
        "frames": len(places),
        "mean_change": round(float(np.abs(found.probabilities - base).mean()), 4),
        "flips": round(float(flips.mean()), 1),
    }


def _statistic(study: Study, probabilities: NDArray[np.float64], places: NDArray[np.int64]) -> Any:
    names = [study.frames.rows[place].patient for place in places]
    patients = np.unique(names, return_inverse=True)[1]
    return frame_statistic(probabilities, study.frames.labels[places] == 1, patients)


def order(study: Study, after: Read, before: Read) -> dict[str, Any]:
    """Return what `after` gains over `before`, with 90 % intervals, and of what an order is claimed."""
    names = {study.frames.rows[place].patient for place in after.places}
    statistics = (_statistic(study, each.probabilities, each.places) for each in (after, before))
    found = bootstrap(change(*statistics), len(names))
    result: dict[str, Any] = {}
    for name in ("auc", "mcc"):
        low, high = np.nanpercentile(found[name][1:], [5, 95])
        values = {"value": found[name][0], "low": low, "high": high}
        result[name] = {key: round(float(value), 4) for key, value in values.items()}
    return result | {"claimed": [name for name in result if result[name]["low"] * result[name]["high"] > 0]}


def summarise(study: Study, lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the study's result."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    first = min(line["fold"] for line in lines)
    for line in lines:
        of_all = line["draw"] == 0 or line["method"] in AFTERWARDS
        name = f"W{line['bits'][0]}A{line['bits'][1]}"
        if line["backbone"] == "resnet50":
            groups["resnet50", name, line["method"]].append(line)
        elif line["whole"] or line["method"] == "adaround":
            groups["one_fold", name, line["method"] + "_whole" * line["whole"]].append(line)
        else:
            if of_all:
                groups["all_folds", name, line["method"]].append(line)
            if line["fold"] == first and (line["draw"] == 0 or line["bits"] == [4, 4]):
                groups["one_fold", name, line["method"]].append(line)
    reads = {key: gather(study, of_it) for key, of_it in groups.items()}
    floats = {part: reads[part, "W8A8", "float"] for part, _, method in reads if method == "float"}
    tables: dict[str, Any] = {}
    for (part, width, method), found in reads.items():
        row = of_cells(study, found, floats[part])
        tables.setdefault(part, {}).setdefault(width, {})[method] = row
    orders = [
        {"width": width, "before": before, "after": after, **order(study, one, other)}
        for width, (before, after) in itertools.product(tables["all_folds"], PAIRS)
        if (one := reads.get(("all_folds", width, after)))
        and (other := reads.get(("all_folds", width, before)))
    ]
    checked = [line for line in lines if "twin" in line]
    return {
        "data_digest": study.frames.digest,
        "seed": SEED,
        "cells": len(lines),
        "core_minutes": round(sum(line["seconds"] for line in lines) / 60, 1),
        **tables,
        "orders": orders,
        "parity": {name: parity(study, checked, name) for name in ("twin", "float_twin")},
        "choices": [
            {"backbone": line["backbone"], "fold": line["fold"], "choices": line["choices"]}
            for line in lines
            if "choices" in line
        ],
    }


def parity(study: Study, lines: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """Return how far a reading of the 8-bit twins in torch is from ONNX Runtime's."""
    one, other = (gather(study, lines, key=key).probabilities[0] for key in (name, "margins"))
    apart = np.abs(one - other)
    disagree = (one >= DECISION) != (other >= DECISION)
    farthest = np.abs(np.concatenate([one[disagree], other[disagree], [DECISION]]) - DECISION).max()
    p99, largest = float(np.quantile(apart, 0.99)), float(apart.max())
    return {
        "frames": len(apart), "p99": p99, "max": largest, "disagreements": int(disagree.sum()),
        "farthest_disagreement_from_half": float(farthest),
        "met": bool(len(apart) >= 1000 and p99 <= 0.02 and largest <= 0.05 and farthest <= 0.05),
    }  # fmt: skip


def as_tables(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    titles = {"all_folds": "Five folds", "one_fold": "One fold", "resnet50": "ResNet50, one fold"}
    lines = [
        "# What quantising costs",
        "",
        "Made by `make quant-study`; how: `tests/studies/quant_study.py`.",
        "",
    ]
    for part, title in titles.items():
        if part not in result:
            continue
        lines += [
            f"## {title}",
            "",
            "| width | method | sets | AUC (sd) | MCC (sd) | mean change of p | flips |",
        ]
        lines.append("|---|---|---|---|---|---|---|")
        for width, methods in result[part].items():
            for method, row in methods.items():
                auc, mcc = (
                    f"{row[name]:.3f}" + (f" ({row[sd]:.3f})" if (sd := f"{name}_sd_of_sets") in row else "")
                    for name in ("auc", "mcc")
                )
                tail = f"{row['mean_change']:.3f} | {row['flips']} of {row['frames']} |"
                lines.append(f"| {width} | {method} | {row['sets']} | {auc} | {mcc} | {tail}")
        lines.append("")
    lines += ["## Orders", "", "| width | | gain of AUC (90 %) | gain of MCC (90 %) | claimed of |"]
    lines.append("|---|---|---|---|---|")
    for each in result["orders"]:
        gains = (f"{x['value']:.3f} ({x['low']:.3f} to {x['high']:.3f})" for x in (each["auc"], each["mcc"]))
        claimed = ", ".join(each["claimed"]) or "none"
        pair = f"{each['before']} to {each['after']}"
        lines.append(f"| {each['width']} | {pair} | " + " | ".join(gains) + f" | {claimed} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    study = open_study(arguments.run)
    result = summarise(study, run_cells(study, jobs=arguments.jobs))
    write_whole(arguments.out, to_json(result))
    write_whole(arguments.out.with_suffix(".md"), as_tables(result))


if __name__ == "__main__":
    main()
