"""Overlay text of known place on frames: strings of invented names, painted with fonts that are at hand."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline.frame import Box, Pixels

DEJAVU = Path("/usr/share/fonts/truetype/dejavu")
DEJAVU_FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSansCondensed", "DejaVuSansMono", "DejaVuSerif")
FONTS = (
    "Aileron", "bitmap", "Hershey simplex", "Hershey duplex", "Hershey plain",
    *(name for name in DEJAVU_FONTS if (DEJAVU / f"{name}.ttf").is_file()),
)  # fmt: skip
"""Pillow's two, three of OpenCV's, and Debian's DejaVu where it is installed."""

COLOURS = (
    (240, 240, 240), (200, 200, 200), (255, 255, 255), (255, 240, 60), (90, 255, 90), (90, 230, 255),
)  # fmt: skip
"""White, greys, yellow, green, cyan: what processors write in, RGB."""

TEXTS = (
    "12/03/2013", "07.11.2021", "2019-05-28", "14:22:07", "00:14:42", "SCV: 30", "Comment:", "Age: 54",
    "D.O.Birth:", "Physician:", "ID: 4471208", "Sex: F", "Mira Ostrovan", "LINDQUIST, T.", "Dr. Kaleva",
    "Veldhoen Aart", "CVP:8", "Gr:N Nr:A3", "Room 12", "Nachname", "Sigma 40 cm", "1/4 F 0:31", "Zoom x1.5",
    "Hospital Nord", "Acc 8812-B", "TEREZ VANYA", "17:59", "No. 27",
)  # fmt: skip
"""Dates, times, labels and names; the names are invented."""

SIZES = tuple(range(9, 29))
"""Font sizes in pixels."""


@dataclass(frozen=True, slots=True)
class Line:
    """One string to paint: its left and upper edge, its font and size in pixels, its RGB colour."""

    text: str
    x: int
    y: int
    font: str = "Aileron"
    size: int = 16
    colour: tuple[int, int, int] = (240, 240, 240)


@dataclass(frozen=True, slots=True, eq=False)
class Painted:
    """A frame with text.

    Attributes
    ----------
    pixels
        ``(rows, columns, 3)`` uint8 RGB.
    boxes
        The smallest rectangle round each string's changed pixels.
    letters
        ``(rows, columns)`` bool: every pixel that a letter changed.
    """

    pixels: Pixels
    boxes: tuple[Box, ...]
    letters: NDArray[np.bool_]


def paint(frame: Pixels, lines: Sequence[Line], *, jpeg_quality: int | None = None) -> Painted:
    """Return the frame with the lines over it, encoded and decoded as JPEG where a quality is given."""
    pixels, letters = frame.copy(), np.zeros(frame.shape[:2], np.bool_)
    boxes: list[Box] = []
    for line in lines:
        ink = _ink(line)
        rows, columns = min(ink.shape[0], frame.shape[0] - line.y), min(ink.shape[1], frame.shape[1] - line.x)
        window = (slice(line.y, line.y + rows), slice(line.x, line.x + columns))
        part, cover = pixels[window], ink[:rows, :columns, np.newaxis]
        written = np.rint(part * (1 - cover) + np.array(line.colour, np.float32) * cover).astype(np.uint8)
        changed = (written != part).any(axis=-1)
        pixels[window] = written
        letters[window] |= changed
        y, x = np.nonzero(changed)
        if x.size:
            left, top = line.x + int(x.min()), line.y + int(y.min())
            boxes.append((left, top, line.x + int(x.max()) + 1, line.y + int(y.max()) + 1))
    if jpeg_quality is not None:
        _, encoded = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality])
        pixels = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB), np.uint8)
    return Painted(pixels, tuple(boxes), letters)


def random_lines(rng: np.random.Generator, rows: int, columns: int, *, count: int) -> list[Line]:
    """Return lines of random text, font, size, colour and place that do not touch each other."""
    lines: list[Line] = []
    taken: list[Box] = []
    while len(lines) < count:
        line = Line(
            str(rng.choice(TEXTS)), 0, 0, str(rng.choice(FONTS)), int(rng.choice(SIZES)),
            COLOURS[int(rng.integers(len(COLOURS)))],
        )  # fmt: skip
        height, width = _ink(line).shape
        if height + 4 >= rows or width + 4 >= columns:
            continue
        x, y = int(rng.integers(2, columns - width - 1)), int(rng.integers(2, rows - height - 1))
        box = (x - 10, y - 10, x + width + 10, y + height + 10)
        if any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken):
            continue
        taken.append(box)
        lines.append(Line(line.text, x, y, line.font, line.size, line.colour))
    return lines


def without_text(frame: Pixels, *, rows: int = 576, columns: int = 720) -> Pixels:
    """Return the tissue of a HyperKvasir frame without its overlays, unscaled, behind an octagon on black.

    Its text and scope box lie in the left third: the mirror image of what is right of it covers that.
    """
    height, width = frame.shape[:2]
    cut = round(0.38 * width)
    tissue = frame.copy()
    tissue[:, :cut] = frame[:, cut : 2 * cut][:, ::-1]
    corner = round(0.3 * height)
    edges = [
        (corner, 4), (width - corner, 4), (width - 4, corner), (width - 4, height - corner),
        (width - corner, height - 4), (corner, height - 4), (4, height - corner), (4, corner),
    ]  # fmt: skip
    inside = cv2.fillConvexPoly(np.zeros((height, width), np.uint8), np.array(edges).reshape(-1, 1, 2), 1)
    canvas = np.zeros((max(rows, height), max(columns, width), 3), np.uint8)
    top, left = (canvas.shape[0] - height) // 2, (canvas.shape[1] - width) // 2
    canvas[top : top + height, left : left + width] = tissue * inside[..., np.newaxis]
    return canvas


def _ink(line: Line) -> NDArray[np.float32]:
    """Return how far each pixel of the string's rectangle is covered, 0 to 1."""
    if line.font.startswith("Hershey"):
        return _hershey(line)
    if line.font == "bitmap":
        font: ImageFont.FreeTypeFont | ImageFont.ImageFont = ImageFont.load_default_imagefont()
    elif line.font == "Aileron":
        font = ImageFont.load_default(line.size)
    else:
        font = ImageFont.truetype(str(DEJAVU / f"{line.font}.ttf"), line.size)
    left, top, right, bottom = (int(value) for value in font.getbbox(line.text))
    image = Image.new("L", (right - left + 2, bottom - top + 2))
    ImageDraw.Draw(image).text((1 - left, 1 - top), line.text, fill=255, font=font)
    if line.font == "bitmap" and line.size >= 2 * 11:  # it has one size, 11 px; processors double such fonts
        image = image.resize((2 * image.width, 2 * image.height), Image.Resampling.NEAREST)
    return np.asarray(image, np.float32) / np.float32(255)


def _hershey(line: Line) -> NDArray[np.float32]:
    face = {
        "Hershey simplex": cv2.FONT_HERSHEY_SIMPLEX,
        "Hershey duplex": cv2.FONT_HERSHEY_DUPLEX,
        "Hershey plain": cv2.FONT_HERSHEY_PLAIN,
    }[line.font]
    thickness = 1 if line.size < 20 else 2
    (_, unit), _ = cv2.getTextSize("Ag", face, 1.0, 1)
    scale = line.size * 0.72 / unit  # capitals are 0.72 of a font's size
    (width, height), below = cv2.getTextSize(line.text, face, scale, thickness)
    ink = np.zeros((height + below + 8, width + 8), np.uint8)
    cv2.putText(ink, line.text, (4, height + 4), face, scale, (255,), thickness, cv2.LINE_AA)
    return ink.astype(np.float32) / np.float32(255)
