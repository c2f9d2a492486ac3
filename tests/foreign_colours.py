"""A model package made to tell foreign frames by given colours."""

import hashlib
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def tell_foreign(package: Path, rarities: NDArray[np.generic], *, threshold: float) -> Path:
    """Add the colours' rarities and a threshold to the package in a folder; return the folder."""
    np.save(package / "colours.npy", rarities)
    manifest = json.loads((package / "model.json").read_text())
    manifest["foreign"] = {"score": "colours", "file": "colours.npy", "threshold": threshold}
    manifest["files"]["colours.npy"] = hashlib.sha256((package / "colours.npy").read_bytes()).hexdigest()
    (package / "model.json").write_text(json.dumps(manifest))
    return package
