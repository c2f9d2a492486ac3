"""What the documents, the layout and the import rules promise, held to the code."""

import ast
import fnmatch
import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pynetdicom
import pytest
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dul import DULServiceProvider
from pynetdicom.transport import AssociationSocket

from node.dicom.contexts import TRANSFER_SYNTAXES, echo_contexts, storage_contexts
from node.settings import Settings, load_settings

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("node", "pipeline", "models", "db")
SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
MARKDOWN = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
LONGEST_MODULE = 400


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_python(code: str, cwd: Path = ROOT) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_every_setting_is_documented_as_it_is(generate: ModuleType) -> None:
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page == generate.settings_page(), "run `make docs`"
    for name in set(Settings.model_fields) - {"peers", "endoscopy", "lower_gi"}:
        assert f"| `{name}` |" in page


def test_the_example_settings_can_be_used() -> None:
    """It is the first file an operator edits."""
    settings = load_settings(ROOT / "deploy" / "endonode.toml")
    assert settings.peers
    compose = load_settings(ROOT / "deploy" / "compose" / "endonode.toml")
    assert compose.database_url.startswith("postgresql+psycopg:")


def uids_between(page: str, start: str, end: str) -> set[str]:
    section = page[page.index(start) : page.index(end)]
    return set(re.findall(r"^\| [^|]+ \| ([0-9.]+) \|$", section, re.MULTILINE))


def test_the_conformance_statement_names_exactly_what_is_accepted() -> None:
    """A PACS is configured from this table: what it lacks is not sent, what it invents is refused."""
    page = (ROOT / "docs" / "conformance.md").read_text(encoding="utf-8")
    accepted = {context.abstract_syntax for context in storage_contexts(Settings())}
    assert uids_between(page, "#### 4.2.1", "#### 4.2.2") == accepted
    assert uids_between(page, "#### 4.2.2", "#### 4.2.3") == set(TRANSFER_SYNTAXES)
    for context in echo_contexts():
        assert f"({context.abstract_syntax})" in page


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_in_documents_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_every_package_is_installed() -> None:
    """A package missing from pyproject.toml works from a clone and not from a wheel."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in SOURCES if path.name == "__init__.py"}
    assert found <= set(listed["packages"])


def test_no_module_is_longer_than_a_person_reads_at_once() -> None:
    lengths = {str(path): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {name: length for name, length in lengths.items() if length > LONGEST_MODULE} == {}


def test_the_node_runs_without_torch() -> None:
    """Every module that `serve` and `work` reach is imported; torch and its family must stay out."""
    loaded = run_python(
        "import sys, node.serving, node.worker, node.dicom.scp, node.cli.tables, node.check\n"
        "print(*sorted({'torch', 'monai', 'onnx', 'sklearn', 'av'} & set(sys.modules)))"
    )
    assert loaded == ""


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        ("node.cli.main", "numpy pydicom pynetdicom sqlalchemy cv2 onnxruntime dbos rapidocr"),
        ("node.serving, node.dicom.scp", "cv2 onnxruntime rapidocr"),
    ],
)
def test_a_start_does_not_wait_for_what_it_does_not_use(modules: str, heavy: str) -> None:
    """`endonode --help` answers at once, and the receiver listens within two seconds."""
    assert run_python(f"import sys, {modules}\nprint(*set({heavy.split()!r}) & sys.modules.keys())") == ""


def lint_imports(tree: Path) -> tuple[int, list[str]]:
    """Return the linter's exit status and its broken contracts, for a copy of our packages."""
    code = "from importlinter.cli import lint_imports_command; lint_imports_command(['--no-cache'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tree, capture_output=True, text=True, check=False)
    return done.returncode, [row for row in done.stdout.splitlines() if " BROKEN" in row]


@pytest.fixture
def copied_tree(tmp_path: Path) -> Path:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_import_rules_hold(copied_tree: Path) -> None:
    assert lint_imports(copied_tree) == (0, [])


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("pipeline/frame.py", "import node.settings", "pipeline and db know nobody"),
        ("models/package.py", "import db.engine", "models know neither node nor db"),
        ("node/inbox.py", "import pynetdicom", "pynetdicom only in"),
        ("node/dicom/header.py", "import sqlalchemy", "SQLAlchemy only in"),
        ("node/reading.py", "import torch", "torch stays below"),
        ("models/package.py", "import torch", "torch stays below"),
        ("node/reading.py", "import models.training.fit", "nobody leans"),
    ],
)
def test_a_planted_import_violation_is_caught(
    copied_tree: Path, module: str, line: str, contract: str
) -> None:
    """A contract whose modules were renamed matches nothing and passes for ever."""
    with (copied_tree / module).open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")
    status, broken = lint_imports(copied_tree)
    assert status == 1
    assert any(contract in row for row in broken), broken


SEAMS = {
    AssociationSocket: ("__init__", "close", "ready", "recv", "send"),
    DULServiceProvider: ("__init__", "run_reactor", "send_pdu"),
    DIMSEServiceProvider: ("__init__", "get_msg", "receive_primitive", "send_msg"),
    Association: ("__init__", "_serve_request", "kill", "run_reactor", "set_socket"),
    AE: ("_create_socket",),
}
"""What we override of pynetdicom (ADR 6)."""


def test_pynetdicom_is_the_version_whose_seams_we_know() -> None:
    """What we override is not documented: another version may call an override otherwise, or never."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        dependencies = tomllib.load(file)["project"]["dependencies"]
    assert "pynetdicom==3.0.*" in dependencies
    assert pynetdicom.__version__.startswith("3.0."), "read what changed at the seams of ADR 6 first"
    named = [(owner, name) for owner, names in SEAMS.items() for name in names]
    gone = [f"{owner.__name__}.{name}" for owner, name in named if name not in vars(owner)]
    assert gone == []


LEVELS = ("debug", "info", "warning", "error", "exception", "critical")


def logged_events() -> Iterator[tuple[str, ast.expr]]:
    """Yield where something is logged, and the event as it stands there."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="log"), attr=level), args=[event, *_]) if (
                    level in LEVELS
                ):
                    yield f"{path.name}:{node.lineno} ({level})", event


def test_every_log_event_is_static_and_explained_to_the_operator() -> None:
    """Alarms are set on these words: a new one that the page lacks is one that nobody looks for."""
    page = (ROOT / "docs" / "operation.md").read_text(encoding="utf-8").partition("## Log")[2]
    explained = set(re.findall(r"^\| `([a-z_]+)` \|", page, re.MULTILINE))
    events = list(logged_events())
    assert [where for where, event in events if not isinstance(event, ast.Constant)] == []
    assert {event.value for _, event in events if isinstance(event, ast.Constant)} == explained


RECORDERS = ("record", "tell", "keep_view")
"""What adds an event to the audit trail; its name comes second."""


def recorded_events() -> Iterator[tuple[str, str]]:
    """Yield where an audit event is recorded, and its name; ``?`` stands for what is filled in."""
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        within = {
            call: function.name
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef)
            for call in ast.walk(function)
        }
        for node in ast.walk(tree):
            match node:
                case ast.Call(func=ast.Name(id=name), args=[_, event, *_]) if name in RECORDERS:
                    choices = [event.body, event.orelse] if isinstance(event, ast.IfExp) else [event]
                    where = f"{path.name}:{node.lineno}"
                    for choice in choices:
                        match choice:
                            case ast.Constant(value=str(said)):
                                yield where, said
                            case ast.JoinedStr(values=parts):
                                yield (
                                    where,
                                    "".join(
                                        str(part.value) if isinstance(part, ast.Constant) else "?"
                                        for part in parts
                                    ),
                                )
                            case _ if within.get(node) not in RECORDERS:
                                yield where, "a name that cannot be read here"


def test_every_audit_event_is_explained_to_the_auditor() -> None:
    """A trail whose words nobody knows is read by nobody; what is never written is looked for in vain."""
    page = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8").partition("## How")[0]
    cells = re.findall(r"^\| (`[^|]*`) \|", page, re.MULTILINE)
    patterns = re.findall(r"`([a-z_*]+)`", " ".join(cells))
    events = list(recorded_events())
    assert len(events) > 50
    explained = [fnmatch.filter([name for _, name in events], pattern) for pattern in patterns]
    assert [pattern for pattern, names in zip(patterns, explained, strict=True) if not names] == []
    known = {name for names in explained for name in names}
    assert [(where, name) for where, name in events if name not in known] == []


def test_another_packages_models_do_not_pass_for_ours(tmp_path: Path) -> None:
    """`models` and `db` are common names: a package of the environment, a folder where an operator stands."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("raise RuntimeError('foreign')")
    (tmp_path / "db").mkdir()
    settings = tmp_path / "endonode.toml"
    settings.write_text(f'storage_dir = "{tmp_path}"\ndatabase_url = "sqlite:///{tmp_path}/node.db"\n')
    path = [str(tmp_path), str(ROOT)]
    code = f"import sys; sys.path[:0] = {path!r}; from node.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "check", "--config", str(settings)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert re.search(r"^ok +model", done.stdout, re.MULTILINE), done.stderr
