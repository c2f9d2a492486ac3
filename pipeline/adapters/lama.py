"""LaMa by the package simple-lama-inpainting (TorchScript): see docs/inpainting.md on installing it."""

import os
from importlib import import_module
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.adapters.weights import read_weights
from pipeline.clean.fill import InpainterError, check_inpainter
from pipeline.frame import Pixels

WHERE = "LAMA_MODEL"
"""Where the package looks for its weights; without it, it would download some and check no digest."""


class Lama:
    """An `Inpainter`: large-mask inpainting (Suvorov et al. 2022) of the whole frame.

    The package pads to a multiple of 8 at the right and below and does not cut that off again; pixels that
    were known come back one level off. The first is mended here, the second by `fill`.

    Parameters
    ----------
    network
        TorchScript file: image float32 ``(1, 3, rows, columns)`` 0-1 and mask int64, 1 = hole, in; image out.
    sha256
        Its digest, checked before anything of it is loaded: TorchScript is code.

    Raises
    ------
    InpainterError
        The package is not installed, the file is another one, or the network does not paint the hole.
    """

    def __init__(self, network: Path, *, sha256: str) -> None:
        read_weights(network, sha256=sha256)
        try:
            package = import_module("simple_lama_inpainting")  # imports torch: only where it is wanted
        except ImportError as error:
            raise InpainterError(
                f"simple-lama-inpainting: the package was expected and cannot be imported: {error}; "
                "docs/inpainting.md says how it is installed"
            ) from error
        before = os.environ.get(WHERE)
        os.environ[WHERE] = str(network)
        try:
            self._lama = package.SimpleLama()
        except RuntimeError as error:
            raise InpainterError(f"{network}: a TorchScript file was expected: {error}") from error
        finally:
            os.environ.pop(WHERE)
            if before is not None:
                os.environ[WHERE] = before
        check_inpainter(self, str(network))

    def __call__(self, pixels: Pixels, unknown: NDArray[np.bool_]) -> Pixels:
        """Paint what is unknown."""
        rows, columns = unknown.shape
        painted = self._lama(pixels, unknown.astype(np.uint8) * 255)
        return np.asarray(painted, np.uint8)[:rows, :columns]
