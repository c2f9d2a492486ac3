"""What programs ask: by token, within its scopes, by a document that says how."""

import io
from collections.abc import Callable

import pyarrow.parquet as pq
import pytest
from sqlalchemy import select

from db.tables import AuditEventRow
from node.drift import Drift
from node.house import Node
from node.quality import Abstention, Agreement, Quality, Reason
from node.roles import SCOPES
from node.tokens import add_token
from node.users import add_user
from node.web import api
from tests.unit.node.web.conftest import PASSWORD, Browser, add_exam

Start = Callable[..., Browser]


@pytest.fixture
def program(node: Node, browser: Start) -> Callable[..., Browser]:
    """Return a function that gives a program with a token of these scopes."""
    add_user(node, "anna", "viewer", PASSWORD, actor="os:test")

    def start(*scopes: str) -> Browser:
        client = browser()
        token = add_token(node, "-".join(scopes), user="anna", scopes=scopes, days=1, actor="os:test")
        client.headers.update({"Authorization": f"Bearer {token}", "Accept": "application/json"})
        return client

    return start


def test_predictions_come_page_by_page_or_all_in_a_file(node: Node, program: Start) -> None:
    made = [add_exam(node, reading) for reading in ("ibd", "healthy", "ibd")]
    client = program("predictions")
    first = client.get("/api/predictions", params={"limit": "2"}).json()
    rest = client.get("/api/predictions", params={"limit": "2", "after": first["next"]}).json()
    assert [each["exam_id"] for each in first["predictions"] + rest["predictions"]] == made[::-1]
    assert rest["next"] is None
    lines = client.get("/api/predictions", params={"form": "csv", "reading": "ibd"}).text.splitlines()
    assert len(lines) == 3
    table = pq.read_table(io.BytesIO(client.get("/api/predictions", params={"form": "parquet"}).content))
    assert table.column("exam_id").to_pylist() == made[::-1]
    with node.database.reading() as session:
        asked = select(AuditEventRow.actor).where(AuditEventRow.event == "predictions_queried")
        assert session.scalars(asked).all() == ["token:predictions"] * 4


def test_a_patient_is_asked_for_without_an_address_that_says_so(node: Node, program: Start) -> None:
    """A query stands in the logs of whatever lies between; a body does not."""
    made = [add_exam(node, patient_id=patient) for patient in ("P1", "P2", "P2")]
    client = program("predictions")
    asked = {"patient_id": "P2", "issuer_of_patient_id": ""}
    found = client.post("/api/predictions/search", json=asked).json()
    assert [each["exam_id"] for each in found["predictions"]] == made[:0:-1]
    assert found == client.get("/api/predictions", params=asked).json()
    for wrong in ({"page": True}, {"nonsense": 1}, {"after": "nonsense"}):
        assert client.post("/api/predictions/search", json=wrong).status_code == 422
    unreadable = client.post(
        "/api/predictions/search", content=b"{", headers={"Content-Type": "application/json"}
    )
    assert unreadable.status_code in (400, 422)
    assert unreadable.json() == {"detail": "This was not understood."}
    assert program("quality").post("/api/predictions/search", json={}).status_code == 403


def test_a_scope_opens_one_thing(program: Start) -> None:
    for scope in SCOPES:
        client = program(scope)
        answered = {path: client.get(f"/api/{path}").status_code for path in SCOPES}
        assert answered == {path: 200 if path == scope else 403 for path in SCOPES}


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "after=nonsense",
        "nonsense=1",
        "since=yesterday",
        "since=20260101",
        "page=-1",
        "reading=maybe",
        "peer=%00",
        "issuer_of_patient_id=HOSPITAL",
    ],
)
def test_what_is_not_understood_is_refused_without_repeating_it(program: Start, query: str) -> None:
    answer = program("predictions").get(f"/api/predictions?{query}")
    assert answer.status_code == 422, answer.text
    assert query.partition("=")[2] not in answer.text or len(query.partition("=")[2]) < 3


def test_a_person_sees_the_figures_as_a_page(browser: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing read, and with every kind of row."""
    viewer = browser("viewer")
    assert "No exam was read yet." in viewer.get("/quality").text
    drift = Drift("d" * 64, "2026-05", {}, {}, 0.31, 0.02, is_too_few=False, state="drifted")
    figures = Quality(
        agreement=(
            Agreement("d" * 64, "2026-05", 9, 3, 1, 0.75),
            Agreement("d" * 64, "2026-06", 9, 0, 0, None),
        ),
        abstention=(Abstention("PACS", "<b>X</b>", "2026-W20", 10, 2, 0.2),),
        reasons=(Reason("2026-05", "below_threshold", 2, 0.2),),
        score_drift=(drift,),
        device_drift=(drift,),
    )
    monkeypatch.setattr(api, "ask_quality", lambda _node, **_asked: figures)
    html = viewer.get("/quality").text
    for said in ("75 %", "nobody reviewed", "&lt;b&gt;X", "below threshold", "0.310", "drifted"):
        assert said in html


def test_the_document_says_what_may_be_asked(program: Start) -> None:
    said = program("predictions").get("/api/openapi.json").json()
    assert set(said["paths"]) == {
        "/api/predictions", "/api/predictions/search", "/api/quality", "/api/openapi.json",
    }  # fmt: skip
    names = {each["name"] for each in said["paths"]["/api/predictions"]["get"]["parameters"]}
    assert {"patient_id", "min_probability", "after", "form"} <= names
