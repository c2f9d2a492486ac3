"""Instruments: the port through which they are found."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.frame import Pixels


class InstrumentDetector(Protocol):
    """Finds where forceps, snares, clips and catheters are; may be shared by threads."""

    def __call__(self, pixels: Pixels) -> NDArray[np.bool_]:
        """Mark the instruments of a ``(rows, columns, 3)`` uint8 RGB frame: ``(rows, columns)`` bool."""
        ...
