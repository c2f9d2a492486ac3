"""What every command begins with: the ``--config`` option, the settings it names, the node they open."""

import os
import pwd
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from node.settings import Settings, load_settings

if TYPE_CHECKING:
    from node.house import Node

Config = Annotated[
    Path | None,
    typer.Option("--config", envvar="ENDONODE_CONFIG", help="TOML file of settings.", show_default=False),
]


def read_settings(config: Path | None) -> Settings:
    """Load the settings; what a command logs goes to standard error, its answer alone to standard output."""
    import structlog

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    return load_settings(config)


def open_configured(config: Path | None) -> "AbstractContextManager[Node]":
    """Open the node that the settings describe; what a command does is done by the account that runs it."""
    from node.serving import open_node

    try:
        account = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's number without a name
        account = str(os.getuid())
    return open_node(read_settings(config), actor=f"os:{account}")
