"""The API held to its own OpenAPI document, by Schemathesis, on the page as the process an operator runs."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from fastapi.routing import iter_route_contexts
from hypothesis import given, settings
from hypothesis import strategies as st
from schemathesis.core import NotSet

from node.roles import SCOPES
from node.serving import open_node
from node.settings import load_settings
from node.tokens import add_token
from node.users import add_user
from node.web import api
from tests.acceptance.peers import REPOSITORY, free_port
from tests.unit.node.web.conftest import PASSWORD, add_exam

HOOKS = "tests.integration.schemathesis_hooks"
SCHEMATHESIS = Path(sys.executable).parent / "schemathesis"


@dataclass(frozen=True, slots=True)
class Page:
    """A page that is served, a token that may all that a program may, and what the page may be asked."""

    url: str
    token: str
    document: dict[str, Any]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, sqlite_with_tables: Path) -> Iterator[Page]:
    """Serve a database of some exams of each kind."""
    folder = tmp_path_factory.mktemp("page")
    shutil.copyfile(sqlite_with_tables, folder / "node.db")
    config, port = folder / "endonode.toml", free_port()
    config.write_text(
        f'storage_dir = "{folder}/store"\ndatabase_url = "sqlite:///{folder}/node.db"\n'
        f"min_free_bytes = 0\nhttp_port = {port}\n"
    )
    with open_node(load_settings(config), stores=True) as node:
        add_user(node, "adam", "administrator", PASSWORD, actor="os:test")
        token = add_token(node, "report", user="adam", scopes=SCOPES, days=1, actor="os:test")
        for number in range(60):
            add_exam(node, ("ibd", "healthy", "unpredicted")[number % 3], patient_id=f"P{number % 7}")
    process = subprocess.Popen(
        [sys.executable, "-m", "node", "page", "--config", str(config)],
        cwd=REPOSITORY, stderr=subprocess.PIPE,
    )  # fmt: skip
    url, said = f"http://127.0.0.1:{port}", {"Authorization": f"Bearer {token}"}
    deadline = time.monotonic() + 30
    while True:
        try:
            document = (
                httpx.get(f"{url}/api/openapi.json", headers=said, timeout=20).raise_for_status().json()
            )
            break
        except httpx.TransportError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    yield Page(url, token, document)
    process.kill()
    log = process.communicate()[1].decode()
    assert "Traceback" not in log


def test_the_api_is_as_its_document_says(page: Page, tmp_path: Path) -> None:
    """Whatever is asked, by the document or against it, by anybody: no error of ours, and nothing unsaid."""
    ran = subprocess.run(
        [
            SCHEMATHESIS, "run", f"{page.url}/api/openapi.json", "--checks", "all",
            "--header", f"Authorization: Bearer {page.token}", "--max-examples", "25",
            "--generation-deterministic", "--no-color",
        ],
        cwd=tmp_path, env={**os.environ, "SCHEMATHESIS_HOOKS": HOOKS, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-8000:] + ran.stderr


@pytest.mark.parametrize(
    "said", [{}, {"Authorization": "Bearer endonode_nobodys"}, {"Cookie": "endonode=nobodys"}]
)
def test_without_a_login_nothing_is_answered_whatever_is_asked(page: Page, said: dict[str, str]) -> None:
    """Each of the document's operations, as the document would have it, is refused with the same words."""
    schema: Any = schemathesis.openapi.from_dict(page.document)
    with httpx.Client(base_url=page.url, headers=said, timeout=20) as stranger:

        @given(case=st.one_of(*(found.ok().as_strategy() for found in schema.get_all_operations())))
        @settings(max_examples=60, derandomize=True, database=None)
        def ask(case: Any) -> None:
            body = {} if isinstance(case.body, NotSet) else {"json": case.body}
            answer = stranger.request(case.method, case.formatted_path, params=case.query, **body)
            assert answer.status_code == 401, answer.text
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.json() == {"detail": "log in first"}

        ask()


def test_the_document_holds_every_route_and_every_answer(page: Page) -> None:
    """A route that is added later is in it too, behind the token, with what it is refused by."""
    routes = {route.path for route in iter_route_contexts(api.router.routes)}
    assert set(page.document["paths"]) == routes
    for operations in page.document["paths"].values():
        for operation in operations.values():
            assert operation["security"]
            assert {"200", "401", "403", "422"} <= set(operation["responses"])
