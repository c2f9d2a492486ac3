"""Pictures of evidence frames for the page: PNG files that may go at any time and are then made again."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, get_args

from node.settings import Settings

Layer = Literal["frame", "activation", "filled", "view"]
LAYERS: tuple[Layer, ...] = get_args(Layer)
"""Of an evidence frame: as a person may see it; with the activations; with what was filled outlined; and the
cleaned part that the model saw."""

MOST_BYTES = 2_000_000_000
"""What the pictures of all exams may take up together; those made longest ago go first."""


class PictureCache:
    """The folder ``pictures`` of the store: a folder an exam revision, in it ``POSITION-LAYER.png``."""

    def __init__(self, settings: Settings) -> None:
        self._root = settings.storage_dir / "pictures"

    def path(self, exam_id: str, position: int, layer: Layer) -> Path:
        """Return where a picture lies, if it was made."""
        return self._root / exam_id / f"{position}-{layer}.png"

    def keep(self, exam_id: str, position: int, layer: Layer, png: bytes) -> None:
        """Keep a picture whole or not at all; nothing durable is promised."""
        path = self.path(exam_id, position, layer)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        staged = path.with_suffix(f".{os.getpid()}")
        staged.write_bytes(png)
        staged.replace(path)

    def drop(self, exam_ids: Iterable[str]) -> None:
        """Remove all pictures of these exam revisions."""
        for exam_id in exam_ids:
            shutil.rmtree(self._root / exam_id, ignore_errors=True)

    def trim(self, most_bytes: int = MOST_BYTES) -> None:
        """Remove the exams whose pictures were made longest ago until the rest fits."""
        folders = sorted(self._root.glob("*"), key=lambda folder: folder.stat().st_mtime, reverse=True)
        taken = 0
        for folder in folders:
            taken += sum(file.stat().st_size for file in folder.glob("*"))
            if taken > most_bytes:
                shutil.rmtree(folder, ignore_errors=True)
