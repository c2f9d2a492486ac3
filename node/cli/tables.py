"""Exams and quarantined objects as a person reads them; legible at 100 columns."""

import sys
from collections.abc import Sequence
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

PIPED_COLUMNS = 100
UNREADABLE_SHOWN = 3
RIGHT = frozenset({"rev.", "images", "frames", "prob."})

READINGS = {"ibd": "IBD pattern", "healthy": "no IBD pattern", "unpredicted": "UNPREDICTED"}
"""What people read; `healthy` is a machine value only, since nothing else is assessed."""

DUE = {"committing": "confirmed", "unconfirmed": "confirmed"}
"""What a peer has still to do with a result in these states of its delivery; in others, to take it."""

CAUTION = (
    "images: received/expected; frames: kept/all. Research use, not a diagnosis:\n"
    "where no IBD pattern was found, other findings are not assessed."
)


def print_exams(exams: Sequence[dict[str, Any]]) -> None:
    """Print one row an exam revision; below, a line for each that failed or needs a person."""
    console = _console()
    if not exams:
        console.print("no exams yet")
        return
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=CAUTION, caption_justify="left")
    for name in ("exam", "rev.", "patient", "state", "images", "frames", "complete", "reading", "prob."):
        justify: Literal["left", "right"] = "right" if name in RIGHT else "left"
        table.add_column(name, justify=justify, no_wrap=name in {*RIGHT, "exam", "state"}, overflow="fold")
    for exam in exams:
        table.add_row(*(Text(cell) for cell in _cells(exam)), style="dim" if exam["superseded_by"] else "")
    console.print(table)
    for exam in exams:
        for line in _remarks(exam):
            console.print(Text(f"exam {exam['exam_id']}: {line}"), soft_wrap=True)


def print_predictions(page: dict[str, Any]) -> None:
    """Print one row a prediction; below, how many there are in all and how to go on."""
    console = _console()
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("read at", "exam", "rev.", "patient", "reading", "prob.", "verdict", "from"):
        is_whole = name in {*RIGHT, "exam", "read at", "verdict"}
        table.add_column(
            name, justify="right" if name in RIGHT else "left", no_wrap=is_whole, overflow="fold",
            min_width=16 if name == "reading" else None,
        )  # fmt: skip
    for found in page["predictions"]:
        cells = (
            found["created_at"][:16].replace("T", " "), found["exam_id"], str(found["revision"]),
            _patient(found), _reading(found), _probability(found), found["verdict"] or "",
            f"{found['peer']} {found['device_model']}",
        )  # fmt: skip
        table.add_row(*(Text(_printable(cell)) for cell in cells))
    if page["predictions"]:
        console.print(table)
    console.print(f"{page['total']} predictions")
    if page["next"]:
        console.print(f"the next page: --after {page['next']}", soft_wrap=True)


def print_quarantined(objects: Sequence[dict[str, Any]]) -> None:
    """Print what lies in quarantine, why, and what to do."""
    console = _console()
    if not objects:
        console.print("nothing is in quarantine")
        return
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("no.", "reason", "patient", "SOP Instance UID", "from", "contradicts"):
        table.add_column(name, overflow="fold")
    for found in objects:
        cells = (
            str(found["instance_id"]), _words(found["reason"]), _patient(found), found["sop_instance_uid"],
            found["calling_ae_title"], str(found["contradicts"] or ""),
        )  # fmt: skip
        table.add_row(*(Text(_printable(cell)) for cell in cells))
    console.print(table)
    console.print("endonode quarantine accept N puts one in force, discard N sets it aside", soft_wrap=True)


def _console() -> Console:
    """Return a console as wide as the terminal; into a file or a pipe, as wide as the tables need."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPED_COLUMNS)


def _cells(exam: dict[str, Any]) -> tuple[str, ...]:
    counts, completeness = exam["counts"], exam["completeness"]
    images = str(counts["received"]) + (f"/{counts['expected']}" if counts["expected"] is not None else "")
    verdict = _words(completeness["verdict"])
    if completeness["missing"]:
        verdict += f", {completeness['missing']} missing"
    looked_at = counts["kept"] + counts["rejected"]
    frames = f"{counts['kept']}/{looked_at}" if looked_at else ""
    is_unconfirmed = exam["state"] == "delivered" and not exam["committed"]
    state = exam["state"] + ("\nnot confirmed" if is_unconfirmed else "")
    named = exam["exam_id"], str(exam["revision"]), _patient(exam), state
    return *named, images, frames, verdict, _reading(exam), _probability(exam)


def _reading(row: dict[str, Any]) -> str:
    reason = f" ({_words(row['unpredicted_reason'])})" if row["unpredicted_reason"] else ""
    return READINGS.get(row["reading"] or "", "") + reason


def _probability(row: dict[str, Any]) -> str:
    return "" if row["probability"] is None else f"{row['probability']:.2f}"


def _remarks(exam: dict[str, Any]) -> list[str]:
    said = []
    if exam["superseded_by"]:
        said.append(f"superseded by {exam['superseded_by']}")
    if exam["error"]:
        said.append(
            f"failed at {exam['error']['step']}: {_printable(exam['error']['text'] or '')}; "
            f"`endonode retry {exam['exam_id']}` takes it up again"
        )
    if foreign := exam["counts"]["out_of_distribution"]:
        said.append(f"{foreign} of {exam['counts']['kept']} frames are out of distribution and did not vote")
    unreadable = {frame["sop_instance_uid"]: frame["text"] for frame in exam["unreadable"]}
    said += [f"not read: {_printable(text)}" for text in list(unreadable.values())[:UNREADABLE_SHOWN]]
    if len(unreadable) > UNREADABLE_SHOWN:
        said.append(f"{len(unreadable) - UNREADABLE_SHOWN} more could not be read; see --json")
    if exam["has_conflict"]:
        said.append("its objects contradict each other; see `endonode quarantine list`, `exams move`")
    elif exam["counts"]["quarantined"]:
        said.append(f"{exam['counts']['quarantined']} in quarantine; see `endonode quarantine list`")
    said += [
        f"{delivery['peer']} has not {DUE.get(delivery['state'], 'taken')} the result: "
        + _printable(delivery["error"])
        for delivery in exam["deliveries"]
        if delivery["error"] and delivery["state"] != "delivered"
    ]
    return said


def _patient(row: dict[str, Any]) -> str:
    issuer = row.get("issuer_of_patient_id") or ""
    return _printable(row["patient_id"] + (f" ({issuer})" if issuer else "")) or "no patient ID"


def _words(value: str | None) -> str:
    return (value or "").replace("_", " ")


def _printable(text: str) -> str:
    """Blank what a terminal would obey: these values came from elsewhere."""
    return "".join(character if character.isprintable() else "?" for character in text)
