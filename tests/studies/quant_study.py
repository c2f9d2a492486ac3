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
import itertools
import json
import multiprocessing
import sys
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from models.figures import bootstrap, change, frame_statistic
from models.patient import DECISION, calibrate
from models.run_folder import to_json, write_whole
from tests.studies.quant_cells import (
    AFTERWARDS,
    METHODS,
    RESNET50,
    SEED,
    TRAINED,
    Cell,
    Study,
    cells,
    digest,
    measure,
    open_study,
    start,
)

PAIRS = (
    ("min_max", "mse"), ("mse", "corrected"), ("corrected", "equalised"), ("corrected", "corrected_qat"),
    ("qat", "corrected_qat"), ("qat", "pact"), ("qat", "lsq"), ("pact", "lsq"),
    ("min_max", "paper"), ("paper", "sensitive"),
)  # fmt: skip
GUESS = {
    "float": 6, "equalised": 35, "sensitive": 160, "adaround": 900, "corrected_adaround": 900,
    "qat": 95, "corrected_qat": 95, "pact": 95, "lsq": 105,
}  # fmt: skip
"""Seconds of a core that a cell takes, until one like it was measured; the others some 14."""


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
        elif line["whole"] or "adaround" in line["method"]:
            groups["one_fold", name, line["method"] + "_whole" * line["whole"]].append(line)
        else:
            if of_all:
                groups["all_folds", name, line["method"]].append(line)
            if line["fold"] == first and (line["draw"] == 0 or line["bits"] == [4, 4]):
                groups["one_fold", name, line["method"]].append(line)
    reads = {key: gather(study, of_it) for key, of_it in groups.items()}
    floats = {part: reads[part, "W8A8", "float"] for part, _, method in reads if method == "float"}
    tables: dict[str, Any] = {}
    names = ["float", *METHODS, *(f"{name}_whole" for name in TRAINED)]
    by_method = sorted(reads.items(), key=lambda read: names.index(read[0][2]))
    for (part, width, method), found in sorted(by_method, key=lambda read: read[0][1], reverse=True):
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
