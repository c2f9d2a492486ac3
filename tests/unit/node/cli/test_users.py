"""Users and tokens by command: who is let in is never typed where others see it."""

import io
import shutil
from pathlib import Path

import pytest

from node.cli.main import app
from node.errors import NodeError

PASSWORD = "correct horse battery"  # noqa: S105 - of nobody


def test_users_and_tokens_are_added_listed_and_shut_out(
    sqlite_with_tables: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tmp_path / "endonode.toml"
    shutil.copyfile(sqlite_with_tables, tmp_path / "node.db")
    config.write_text(f'storage_dir = "{tmp_path}"\ndatabase_url = "sqlite:///{tmp_path}/node.db"\n')

    def run(*words: str, typed: str = "") -> str:
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        app([*words, "--config", str(config)], standalone_mode=False)
        return capsys.readouterr().out

    add = ("users", "add", "anna", "--role", "viewer", "--password-stdin")
    with pytest.raises(NodeError, match="12 to 256 characters"):
        run(*add, typed="short\n")
    assert run(*add, typed=f"{PASSWORD}\n") == "user anna: added as viewer\n"
    with pytest.raises(NodeError, match="exists already"):
        run(*add, typed=f"{PASSWORD}\n")
    run("users", "role", "anna", "reviewer")
    assert run("users", "list") == "anna\treviewer\tmay log in\n"
    token = run("tokens", "add", "report", "--user", "anna", "--scope", "predictions")
    assert token.startswith("endonode_")
    assert run("tokens", "list") == "report\tanna\tpredictions\tin force\n"
    run("tokens", "revoke", "report")
    assert run("tokens", "list") == "report\tanna\tpredictions\trevoked\n"
    run("users", "disable", "anna")
    assert run("users", "list") == "anna\treviewer\tdisabled\n"
    run("users", "disable", "anna", "--undo")
    assert (
        run("users", "password", "anna", "--password-stdin", typed=f"{PASSWORD}2\n")
        == "user anna: password set\n"
    )
    with pytest.raises(NodeError, match="nobody: not known"):
        run("users", "disable", "nobody")
