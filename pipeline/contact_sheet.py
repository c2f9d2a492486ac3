"""A contact sheet: what frames were, what was masked in them, and what they became."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.clean.view import outline_synthetic
from pipeline.frame import CleanFrame, Pixels, RejectedFrame

CELL_ROWS, CELL_COLUMNS = 180, 240
GAP, CAPTION = 8, 22
TRIPLES_A_ROW = 2
GROUND, PLATE, TEXT, MASKED = (21, 23, 26), (44, 47, 52), (236, 238, 241), (255, 255, 255)


@dataclass(frozen=True, slots=True, eq=False)
class Triple:
    """One frame at the sheet's size: before, mask, after."""

    caption: str
    pictures: tuple[Pixels, Pixels, Pixels]


def triple_of(stem: str, before: Pixels, cleaned: CleanFrame | RejectedFrame) -> Triple:
    """Return a frame's row of the sheet; where it was rejected, plates stand for what there is not."""
    if isinstance(cleaned, RejectedFrame):
        plate = np.full((CELL_ROWS, CELL_COLUMNS, 3), PLATE, np.uint8)
        return Triple(f"{stem}: rejected, {cleaned.reason.replace('_', ' ')}", (_fit(before), plate, plate))
    mask = np.zeros_like(before)
    mask[cleaned.synthetic] = MASKED
    x0, y0, x1, y1 = cleaned.view_box
    seen = cv2.resize(
        cleaned.synthetic[y0:y1, x0:x1].astype(np.uint8),
        cleaned.view.shape[1::-1],
        interpolation=cv2.INTER_AREA,
    )
    after = outline_synthetic(cleaned.view, seen.astype(np.bool_))
    share = cleaned.synthetic.mean()
    return Triple(f"{stem}: {share:.1%} filled" if share else stem, (_fit(before), _fit(mask), _fit(after)))


def draw_sheet(triples: Sequence[Triple]) -> Pixels:
    """Return the sheet: ``(rows, columns, 3)`` uint8 RGB, two frames a row."""
    cell = (3 * CELL_COLUMNS + 4 * GAP, CELL_ROWS + CAPTION + GAP)
    lines = -(-len(triples) // TRIPLES_A_ROW)
    sheet = Image.new(
        "RGB", (min(len(triples), TRIPLES_A_ROW) * cell[0] + GAP, lines * cell[1] + GAP), GROUND
    )
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for number, triple in enumerate(triples):
        left = GAP + number % TRIPLES_A_ROW * cell[0]
        top = GAP + number // TRIPLES_A_ROW * cell[1]
        pen.text((left, top + 2), _cut(triple.caption), TEXT, font)
        for place, picture in enumerate(triple.pictures):
            sheet.paste(Image.fromarray(picture), (left + place * (CELL_COLUMNS + GAP), top + CAPTION))
    return np.asarray(sheet, dtype=np.uint8)


def _fit(pixels: Pixels) -> Pixels:
    """Return a frame within one cell, its aspect ratio kept, on the sheet's ground."""
    scale = min(CELL_ROWS / pixels.shape[0], CELL_COLUMNS / pixels.shape[1])
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    cell = np.full((CELL_ROWS, CELL_COLUMNS, 3), GROUND, np.uint8)
    top, left = (CELL_ROWS - size[1]) // 2, (CELL_COLUMNS - size[0]) // 2
    cell[top : top + size[1], left : left + size[0]] = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return cell


def _cut(caption: str, longest: int = 90) -> str:
    return caption if len(caption) <= longest else caption[: longest - 1] + "…"
