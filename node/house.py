"""What every part of the node is handed: settings, database, files, jobs and the installation's id."""

from dataclasses import dataclass

from db.engine import Database
from db.jobs import Jobs
from node.files import FileStore
from node.settings import Settings


@dataclass(frozen=True, slots=True)
class Node:
    """One opened node; made by `node.serving.open_node`, handed down, never global."""

    settings: Settings
    database: Database
    files: FileStore
    jobs: Jobs
    installation_id: str
