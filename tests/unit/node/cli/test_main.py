import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest

from node.cli.main import app, main

ROOT = Path(__file__).resolve().parents[4]
COMMANDS = (
    "serve", "receive", "work", "page", "send", "exams", "retry", "quarantine", "users", "tokens", "migrate",
    "check", "demo",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Done:
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


@pytest.fixture
def endonode(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs a command as the program does, within this process: it starts at once."""
    for name in [name for name in os.environ if name.startswith("ENDONODE_")]:
        monkeypatch.delenv(name)

    def run(*arguments: str, **variables: str) -> Done:
        with monkeypatch.context() as patched:
            patched.setattr(sys, "argv", ["endonode", *arguments])
            for name, value in variables.items():
                patched.setenv(name, value)
            capfd.readouterr()
            with pytest.raises(SystemExit) as stopped:
                main()
            return Done(int(str(stopped.value.code or 0)), *capfd.readouterr())

    return run


@pytest.fixture
def refusal(endonode: Run) -> Callable[..., str]:
    """Return a function that runs a command that must fail with one clear line and nothing else."""

    def run(*arguments: str, status: int = 1, **variables: str) -> str:
        done = endonode(*arguments, **variables)
        assert done.returncode == status, done.stderr
        assert done.stdout == ""
        assert done.stderr.startswith("endonode: ")
        assert done.stderr.count("\n") == 1, done.stderr
        assert "Traceback" not in done.stderr
        assert "unexpected" not in done.stderr
        return done.stderr

    return run


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "endonode.toml"
    path.write_text(
        f'storage_dir = "{tmp_path}/store"\n'
        f'database_url = "sqlite:///{tmp_path}/node.db"\n'
        "min_free_bytes = 1\n"
    )
    return str(path)


def test_help_names_every_command(endonode: Run) -> None:
    done = endonode()
    assert done.returncode == 0
    assert [name for name in COMMANDS if f"  {name} " not in done.stdout] == []
    assert done.stdout == endonode("--help").stdout


def test_the_version_is_that_of_the_installation() -> None:
    """The first question of whoever is asked for help."""
    done = subprocess.run(
        [sys.executable, "-m", "node", "--version"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, f"endonode {version('endonode')}\n")


@pytest.mark.parametrize(
    "command",
    [*COMMANDS, "exams move", "quarantine list", "quarantine accept", "users add", "tokens add"],
)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app([*command.split(), "--help"], standalone_mode=False) == 0
    shown = capsys.readouterr().out
    if command not in {"demo", "quarantine", "users", "tokens"}:
        assert "--config" in shown
        assert "ENDONODE_CONFIG" in shown


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("exms", "exams"),
        ("send", "PATH"),
        ("exams --jsno", "--json"),
        ("exams move 1.2.3", "--to"),
        ("quarantine accept twelve", "integer"),
        ("quarantine", "command"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(
    refusal: Callable[..., str], arguments: str, named: str
) -> None:
    message = refusal(*arguments.split(), status=2)
    assert named in message
    assert "--help" in message


def test_settings_that_cannot_be_used_are_one_line(refusal: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("prot = 104")
    assert "nearest is 'port'" in refusal("exams", "--config", str(tmp_path / "bad.toml"))
    assert "no such settings file" in refusal("check", "--config", str(tmp_path / "absent.toml"))
    assert "ENDONODE_PORT" in refusal("migrate", ENDONODE_PROT="104")


def test_the_settings_file_can_be_named_by_the_environment(
    refusal: Callable[..., str], tmp_path: Path
) -> None:
    assert "absent.toml" in refusal("exams", ENDONODE_CONFIG=str(tmp_path / "absent.toml"))


def test_a_database_without_tables_is_told_how_to_get_them(refusal: Callable[..., str], config: str) -> None:
    assert "migrate" in refusal("exams", "--config", config)


def test_an_empty_node_has_nothing_to_show(endonode: Run, config: str) -> None:
    assert endonode("migrate", "--config", config).returncode == 0
    assert json.loads(endonode("exams", "--json", "--config", config).stdout) == []
    assert endonode("exams", "--config", config).stdout == "no exams yet\n"
    assert json.loads(endonode("quarantine", "list", "--json", "--config", config).stdout) == []
    assert endonode("quarantine", "list", "--config", config).stdout == "nothing is in quarantine\n"


def test_what_is_not_there_is_named(endonode: Run, refusal: Callable[..., str], config: str) -> None:
    endonode("migrate", "--config", config)
    assert "0123456789ab" in refusal("retry", "0123456789ab", "--config", config)
    assert "instance 7" in refusal("quarantine", "accept", "7", "--config", config)
    assert "instance 7" in refusal("quarantine", "discard", "7", "--config", config)
    assert "1.2.3" in refusal("exams", "move", "1.2.3", "--to", "P", "--config", config)


def test_a_folder_that_cannot_be_written_is_named(refusal: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in refusal("demo", "--out", str(tmp_path / "file"))


def test_an_error_that_nobody_foresaw_shows_where_and_not_what() -> None:
    """Its text may quote a dataset."""
    code = (
        "from node.cli import main\n"
        "def burst(): raise ValueError('DOE^JANE')\n"
        "main._claim_package_names = burst\n"
        "main.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "DOE" not in done.stderr
    assert "unexpected ValueError at" in done.stderr
    assert done.stderr.count("\n") == 1
