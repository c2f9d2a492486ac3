"""What leaves the node of stored predictions: pages, files, the trail of the questions, the commands."""

import csv
import io
import json
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from sqlalchemy import select

from db.filters import PredictionFilters, PredictionQuery
from db.predictions import Prediction
from db.tables import AuditEventRow
from node.cli.main import main
from node.house import Node
from node.predictions import EXPORTED_AT_ONCE, csv_lines, export, query_page, write_parquet
from tests.predicted import START, add_models, add_patient, add_prediction

PATIENT = "=1+1;Jo"


@pytest.fixture(autouse=True)
def filled(node: Node) -> list[int]:
    """Give the node seven predictions, the last of nobody and without a probability; return their ids."""
    with node.database.writing() as session:
        add_models(session)
        patient = add_patient(session, PATIENT, "HOSPITAL")
        rows = [add_prediction(session, n, patient=patient, probability=n / 7) for n in range(6)]
        rows.append(add_prediction(session, 6, device_model="-x", unpredicted_reason="no_frames"))
    return [row.id for row in rows]


def asked(node: Node) -> list[AuditEventRow]:
    """Return the events, oldest first."""
    with node.database.reading() as session:
        return list(session.scalars(select(AuditEventRow).order_by(AuditEventRow.id)))


def test_a_page_says_how_many_there_are_and_how_to_go_on(node: Node, filled: list[int]) -> None:
    first = query_page(node, PredictionQuery(limit=3))
    assert [row["id"] for row in first["predictions"]] == filled[:-4:-1]
    assert first["total"] == 7
    second = query_page(node, PredictionQuery(limit=3, after=first["next"]))
    assert second == query_page(node, PredictionQuery(limit=3, page=2))
    last = query_page(node, PredictionQuery(limit=3, page=2, after=first["next"]))
    assert ([row["id"] for row in last["predictions"]], last["next"]) == (filled[:1], None)
    assert json.loads(json.dumps(first)) == first


def test_the_trail_names_who_asked_what_and_no_patient(node: Node) -> None:
    """Who looked for whom is what an audit is about; the trail itself is read by people who may not know."""
    query_page(
        node, PredictionQuery(patient_id=PATIENT, issuer_of_patient_id="HOSPITAL", min_probability=0.5),
        actor="reviewer",
    )  # fmt: skip
    (event,) = asked(node)
    assert (event.event, event.actor) == ("predictions_queried", "reviewer")
    assert event.detail == {
        "form": "json",
        "filters": ["issuer_of_patient_id", "min_probability", "patient_id"],
        "min_probability": 0.5,
        "patients": [1],
    }


def test_a_question_is_recorded_before_its_answer_is_read(node: Node) -> None:
    """An export that breaks off has shown something too."""
    export(node, PredictionFilters(), form="csv")
    assert [event.detail["form"] for event in asked(node)] == ["csv"]


def test_a_spreadsheet_runs_nothing_of_a_csv_file(node: Node) -> None:
    """A device may call itself a formula; every other cell is as it is stored."""
    rows = list(
        csv.DictReader(io.StringIO("".join(csv_lines(export(node, PredictionFilters(), form="csv")))))
    )
    assert [row["device_model"] for row in rows] == ["'-x", *["MAKER 1"] * 6]
    assert [row["patient_id"] for row in rows] == ["", *["'" + PATIENT] * 6]
    assert [row["probability"] for row in rows] == ["", *[str(n / 7) for n in (5, 4, 3, 2, 1, 0)]]
    assert rows[0].keys() == {field.name for field in fields(Prediction)}


def test_parquet_keeps_types_and_every_bit(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of no row has the columns too; parts that are read apart lie one after the other."""
    assert EXPORTED_AT_ONCE > 3
    monkeypatch.setattr("node.predictions.EXPORTED_AT_ONCE", 3)
    for filters in (PredictionFilters(), PredictionFilters(peer="nobody")):
        file = io.BytesIO()
        write_parquet(file, export(node, filters, form="parquet"))
        table = pq.read_table(io.BytesIO(file.getvalue()))
        assert table.to_pylist() == [asdict(row) for row in export(node, filters, form="json")]
        assert str(table.schema.field("created_at").type) == "timestamp[us, tz=UTC]"


@pytest.fixture
def endonode(node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> Any:
    """Return a function that runs a command on the node, and gives its exit status and what it printed."""
    config = tmp_path / "endonode.toml"
    config.write_text(
        f'storage_dir = "{node.settings.storage_dir}"\ndatabase_url = "{node.settings.database_url}"\n'
    )

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["endonode", *arguments, "--config", str(config)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        return (int(str(stopped.value.code or 0)), *capfd.readouterr())

    return run


def test_the_command_shows_a_page_and_writes_files(endonode: Any, node: Node, tmp_path: Path) -> None:
    status, shown, _ = endonode("predictions", "--limit", "2", "--min-probability", "0.1")
    assert (status, "5 predictions" in shown, "IBD" in shown) == (0, True, True)
    after = shown.rpartition("--after ")[2].strip()
    _, rest, _ = endonode("predictions", "--min-probability", "0.1", "--after", after, "--json")
    assert [row["probability"] for row in json.loads(rest)["predictions"]] == [3 / 7, 2 / 7, 1 / 7]
    files = [tmp_path / "all.csv", tmp_path / "all.parquet"]
    assert endonode("predictions", "--csv", str(files[0]), "--parquet", str(files[1])) == (0, "", "")
    assert len(files[0].read_text().splitlines()) == 1 + pq.read_table(files[1]).num_rows == 8
    assert all(event.actor.startswith("os:") for event in asked(node))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--patient-id", ""), "--patient-id: "),
        (("--min-probability", "half"), "--min-probability: "),
        (("--since", "yesterday"), "--since: "),
        (("--issuer-of-patient-id", "SECRET"), "narrows patient_id"),
        (("--limit", "501"), "--limit: "),
    ],
)
def test_a_wrong_filter_is_one_line_and_answers_nothing(
    endonode: Any, node: Node, arguments: tuple[str, ...], said: str
) -> None:
    """An empty Patient ID in a script must not answer with everybody's readings."""
    status, shown, error = endonode("predictions", *arguments)
    assert (status, shown, error.count("\n"), asked(node)) == (2, "", 1, [])
    assert said in error
    assert "SECRET" not in error


def test_quality_is_json(endonode: Any) -> None:
    status, shown, _ = endonode("quality", "--since", f"{START:%Y-%m}")
    figures = json.loads(shown)
    assert (status, figures["abstention"][1]["unpredicted"], figures["abstention"][0]["readings"]) == (
        0,
        0,
        1,
    )
    assert endonode("quality", "--since", "2026-3")[0] == 2


def test_a_replay_says_by_its_status_what_came_of_it(endonode: Any) -> None:
    """The reading of these exams was never computed: no image gives another."""
    status, _, error = endonode("replay", f"{1:012x}")
    assert (status, "in force is" in error) == (1, True)
    package = Path(__file__).resolve().parents[3] / "models" / "reference"
    status, shown, _ = endonode("replay", f"{1:012x}", "--package", str(package))
    assert (status, "not the same: reading, probability" in shown) == (3, True)
