"""The port, and what keeps the adapter behind it honest."""

import ast
import importlib.metadata
import subprocess
import sys
from pathlib import Path

DB = Path(__file__).parents[3] / "db"


def test_the_port_loads_no_engine() -> None:
    """A command that only reads should start in the time that it needs itself."""
    code = "import db.jobs, db.audit, db.schema, sys; sys.exit(bool({'dbos', 'alembic'} & {*sys.modules}))"
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=DB.parent, check=True, timeout=30)


def test_the_adapter_uses_no_private_name_of_dbos() -> None:
    """DBOS may change them in any release, and taking over a dead worker's job would silently break."""
    for path in DB.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dbos":
                assert node.module == "dbos", f"{path.name}:{node.lineno}"
                assert not [name for name in node.names if name.name.startswith("_")]
            if (
                isinstance(node, ast.Attribute)
                and node.attr.startswith("_")
                and not node.attr.startswith("__")
            ):
                owner = ast.unparse(node.value)
                assert owner == "self", f"{path.name}:{node.lineno} reaches into {owner}"


def test_the_release_of_dbos_is_the_one_that_was_tried() -> None:
    """Another line may recover, delay or poll otherwise: the kill tests have to pass on it first."""
    assert importlib.metadata.version("dbos").startswith("3.4.")
