"""Draw docs/images/cleaning.png: painted frames before, masked and after; ``python docs/figures.py``."""

import tempfile
from dataclasses import replace
from pathlib import Path

import cv2

from node.demo.painting import paint_frame
from pipeline.clean.recipe import DEFAULT, STEPS
from pipeline.folder import clean_folder, list_items
from pipeline.tools import open_cleaner

PAINTED = (
    ("plain", False, None),
    ("text", False, "12/03/2013  14:22:07"),
    ("instrument", True, None),
    ("text and instrument", True, "Sigma 40 cm"),
)


def main() -> None:
    """Draw the figure."""
    steps = tuple(step for step in STEPS if step != "crop")
    with tempfile.TemporaryDirectory() as name:
        source, out = Path(name) / "in", Path(name) / "out"
        source.mkdir()
        for number, (stem, instrument, text) in enumerate(PAINTED):
            painted = paint_frame(
                number, ulcers=False, instrument=instrument, text=text, rows=576, columns=720
            )
            cv2.imwrite(str(source / f"{number} {stem}.png"), painted[..., ::-1])
        clean_folder(list_items(source), out, open_cleaner(replace(DEFAULT, steps=steps)))
        target = Path(__file__).parent / "images" / "cleaning.png"
        target.write_bytes((out / "contact-sheet.png").read_bytes())


if __name__ == "__main__":
    main()
