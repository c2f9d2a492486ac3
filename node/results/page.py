"""The pages of a result: one that sums up, then one an evidence frame; all of one size.

Nothing that names a person or an exam is drawn: a page is made from a `Report`, which holds no such thing.
"""

from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from node.results import words
from node.results.overlay import colour_map, fit, overlay
from node.results.report import EvidencePanel, Report
from pipeline.frame import Pixels

ROWS, COLUMNS = 960, 1280
MARGIN, GUTTER = 56, 24
HALF = (COLUMNS - 2 * MARGIN - GUTTER) // 2
MIDDLE = MARGIN + HALF + GUTTER
PANEL_TOP, PANEL_ROWS = 168, 540
TABLE_TOP, LEADING = 296, 38
STRIP = 6

GROUND, PANEL, LINE = (21, 23, 26), (11, 12, 14), (62, 67, 74)
TEXT, MUTED, CAUTION = (236, 238, 241), (160, 166, 174), (242, 190, 98)
Colour = tuple[int, int, int]


def draw_pages(report: Report) -> list[Pixels]:
    """Return the summary page and one page an evidence frame, each ``(960, 1280, 3)`` uint8 RGB."""
    count = 1 + len(report.evidence)
    pages = [_summary(report, count)]
    pages += [
        _evidence(report, panel, number, count) for number, panel in enumerate(report.evidence, start=2)
    ]
    return [np.asarray(page, dtype=np.uint8) for page in pages]


def _summary(report: Report, count: int) -> Image.Image:
    page = _blank(report, 1, count)
    pen = ImageDraw.Draw(page)
    _write(pen, (MARGIN, 122), "Reading", 20, MUTED)
    _write(pen, (MARGIN, 150), words.READINGS[report.reading], 42)
    reason = report.unpredicted_reason
    if report.reading == "failed":
        _write(pen, (MARGIN, 210), words.FAILURE, 24, CAUTION)
    elif reason is not None:
        _write(pen, (MARGIN, 210), words.REASONS.get(reason, reason.replace("_", " ").capitalize() + "."), 24)
    elif report.probability is not None:
        estimate = f"Probability of IBD {words.share(report.probability)}, a calibrated estimate"
        _write(pen, (MARGIN, 210), estimate, 24)
    counted = [
        ("Frames received", f"{report.frames_received}"),
        ("Frames fit to be read", f"{report.frames_kept}"),
        ("Frames that voted", f"{report.frames_used}"),
    ]
    settings = [
        ("Confidence threshold t", f"{report.threshold:g}"),
        ("Frames that may vote, k", f"{report.top_k}"),
        ("Model", report.model_name),
        ("Model version, digest", f"{report.model_version}, {report.model_digest[:12]}"),
    ]
    _table(pen, settings if report.reading == "failed" else counted + settings)
    _notes(pen, report)
    _strip(page, pen, report)
    return page


def _table(pen: ImageDraw.ImageDraw, rows: list[tuple[str, str]]) -> None:
    for number, (name, value) in enumerate(rows):
        top = TABLE_TOP + LEADING * number
        _write(pen, (MARGIN, top), name, 20, MUTED)
        _write(pen, (MARGIN + 252, top), value, 20, width=HALF - 252)


def _notes(pen: ImageDraw.ImageDraw, report: Report) -> None:
    """Write what a reader must know of the exam; what limits the reading stands out."""
    for number, (text, is_limit) in enumerate(words.notes(report)):
        colour = CAUTION if is_limit else TEXT
        _write(pen, (MIDDLE, TABLE_TOP + LEADING * number), text, 20, colour, width=HALF)


def _strip(page: Image.Image, pen: ImageDraw.ImageDraw, report: Report) -> None:
    """Show the evidence at a glance, with the page that each frame is shown on."""
    top, columns = 618, (COLUMNS - 2 * MARGIN - (STRIP - 1) * 16) // STRIP
    if not report.evidence:
        return
    voted = report.evidence[0].voted
    why_not = {words.vote(panel) for panel in report.evidence}
    title = f"Most confident frames: {why_not.pop() if len(why_not) == 1 else 'none voted'}"
    if voted:
        title = "Frames that voted, with their confidence"
    if len(report.evidence) > STRIP:
        title += f" (the first {STRIP} of {len(report.evidence)})"
    _write(pen, (MARGIN, top), title, 20, MUTED if voted else CAUTION)
    for number, panel in enumerate(report.evidence[:STRIP]):
        left = MARGIN + number * (columns + 16)
        _place(page, panel.pixels, (left, top + 38, columns, 150))
        if panel.gate == "plate":
            _write(pen, (left + columns // 2, top + 113), words.place(panel), 18, MUTED, anchor="mm")
        _write(pen, (left, top + 198), f"Page {number + 2}", 18, MUTED)
        _write(pen, (left + columns, top + 198), words.confidence(panel), 18, anchor="ra")


def _evidence(report: Report, panel: EvidencePanel, number: int, count: int) -> Image.Image:
    page = _blank(report, number, count)
    pen = ImageDraw.Draw(page)
    _write(pen, (MARGIN, 112), f"Frame {number - 1} of {count - 1}", 30)
    _write(pen, (COLUMNS - MARGIN, 118), words.vote(panel), 22, TEXT if panel.voted else CAUTION, anchor="ra")
    plain = fit(panel.pixels, PANEL_ROWS, HALF)
    _place(page, plain, (MARGIN, PANEL_TOP, HALF, PANEL_ROWS))
    _place(page, overlay(panel, plain), (MIDDLE, PANEL_TOP, HALF, PANEL_ROWS))
    below = PANEL_TOP + PANEL_ROWS + 14
    label = words.CLASSES.get(panel.label, panel.label.replace("_", " "))
    if panel.gate == "plate":
        middle = (MARGIN + HALF // 2, PANEL_TOP + PANEL_ROWS // 2)
        _write(pen, middle, words.place(panel).capitalize(), 30, anchor="mm")
        _write(pen, (MARGIN, below), words.NOT_SHOWN, 20, CAUTION)
    else:
        _write(pen, (MARGIN, below), words.FRAMES[panel.gate], 20, MUTED)
    if panel.synthetic_share is not None and panel.synthetic_share > words.SHARE_TOLD:
        told = f"{100 * panel.synthetic_share:.0f} % of the activation lies on filled pixels"
        _write(pen, (MARGIN, below + 36), told, 18, CAUTION)
    if panel.cam is None:
        _write(
            pen, (MIDDLE, below), "This model gives no class activations; outlined: what it saw", 20, MUTED
        )
    else:
        _write(pen, (MIDDLE, below), f"Activation for {label}; outlined: what the model saw", 20, MUTED)
        _legend(page, pen, below + 40)
    facts = [
        ("Read as", label),
        ("Confidence", f"{words.confidence(panel)}  (t = {report.threshold:g})"),
        ("Probability of IBD", words.share(panel.probability)),
        ("Source", words.place(panel)),
    ]
    for place, (name, value) in enumerate(facts):
        left = (MARGIN, MARGIN + 196, MARGIN + 420, MIDDLE)[place]
        _write(pen, (left, 806), name, 18, MUTED)
        _write(pen, (left, 832), value, 24)
    return page


def _legend(page: Image.Image, pen: ImageDraw.ImageDraw, top: int) -> None:
    ramp = Image.fromarray(np.ascontiguousarray(np.broadcast_to(colour_map(), (14, 256, 3))))
    _write(pen, (MIDDLE, top - 4), "none", 18, MUTED)
    page.paste(ramp, (MIDDLE + 56, top))
    _write(pen, (MIDDLE + 326, top - 4), "strongest in this frame", 18, MUTED)


def _blank(report: Report, number: int, count: int) -> Image.Image:
    """Return a page with what stands on every page: what this is, its revision, and what it is not."""
    page = Image.new("RGB", (COLUMNS, ROWS), GROUND)
    pen = ImageDraw.Draw(page)
    revision = f"Revision {report.revision}"
    if report.supersedes is not None:
        revision += f", replaces revision {report.supersedes}"
    _write(pen, (MARGIN, 38), "AI reading of endoscopy: inflammatory bowel disease (IBD)", 22)
    _write(pen, (COLUMNS - MARGIN, 38), revision, 22, anchor="ra")
    pen.line((MARGIN, 82, COLUMNS - MARGIN, 82), fill=LINE)
    pen.line((MARGIN, 888, COLUMNS - MARGIN, 888), fill=LINE)
    _write(pen, (MARGIN, 906), words.CAUTIONARY, 24)
    _write(pen, (COLUMNS - MARGIN, 908), f"Page {number} of {count}", 20, MUTED, anchor="ra")
    return page


def _place(page: Image.Image, pixels: Pixels, place: tuple[int, int, int, int]) -> None:
    """Put a frame in the middle of ``(left, top, columns, rows)``, on a darker ground."""
    left, top, columns, rows = place
    fitted = fit(pixels, rows, columns)
    page.paste(PANEL, (left, top, left + columns, top + rows))
    page.paste(
        Image.fromarray(fitted),
        (left + (columns - fitted.shape[1]) // 2, top + (rows - fitted.shape[0]) // 2),
    )


def _write(
    pen: ImageDraw.ImageDraw,
    place: tuple[int, int],
    text: str,
    size: int,
    colour: Colour = TEXT,
    *,
    anchor: str = "la",
    width: int | None = None,
) -> None:
    """Write one line; what is wider than `width` is cut and says so with dots."""
    font = _font(size)
    if width is not None and font.getlength(text) > width:
        while text and font.getlength(text + "...") > width:
            text = text[:-1]
        text += "..."
    pen.text(place, text, font=font, fill=colour, anchor=anchor)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Return Aileron, which Pillow carries (CC0); it has ASCII and Latin-1 only."""
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise TypeError("Pillow was built without FreeType: no legible font; install Pillow from its wheel")
    return font
