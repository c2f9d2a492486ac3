"""Clean a frame: the steps in their order, each entered in the frame's ledger."""

from time import perf_counter
from typing import TypedDict, Unpack

from pipeline.clean.content_area import find_content_area
from pipeline.clean.crop import crop_view, view_box
from pipeline.clean.fill import fill
from pipeline.clean.quality import refusal
from pipeline.clean.recipe import DEFAULT, Recipe
from pipeline.clean.text import TextDetector, text_mask
from pipeline.frame import CleanFrame, Frame, LedgerEntry, RejectedFrame


class Cleaner:
    """Frame in, clean frame or rejection out; it keeps nothing between frames.

    One cleaner may be shared by threads where its detector may. The process, not the cleaner, decides on
    OpenCV's own threads: a process that runs one worker thread a core calls ``cv2.setNumThreads(1)`` first.
    """

    def __init__(self, detector: TextDetector, recipe: Recipe = DEFAULT) -> None:
        self._detector = detector
        self._recipe = recipe
        self.recipe_digest = recipe.digest

    def clean(self, frame: Frame) -> CleanFrame | RejectedFrame:
        """Return the frame fit to be read, or why it is not; the ledger tells each step."""
        ledger = _Ledger()
        area = find_content_area(frame.pixels)
        if area is None:
            ledger.enter("content_area", "rejected", reason="no_content")
            return RejectedFrame(frame.source, "no_content", tuple(ledger.entries))
        ledger.enter("content_area", "passed", mask_area=int(area.mask.sum()))
        reason = refusal(frame.pixels, area, self._recipe.quality)
        if reason is not None:
            ledger.enter("quality", "rejected", reason=reason)
            return RejectedFrame(frame.source, reason, tuple(ledger.entries))
        ledger.enter("quality", "passed")
        rows, columns = area.mask.shape
        text = text_mask(self._detector(frame.pixels), rows=rows, columns=columns)
        ledger.enter("text", "passed", mask_area=int(text.sum()))
        filled, hole = fill(frame.pixels, text, area.mask)
        changed = int((filled[hole] != frame.pixels[hole]).any(axis=-1).sum())
        ledger.enter(
            "fill", "changed" if changed else "passed", mask_area=int(hole.sum()), pixels_changed=changed
        )
        view = crop_view(filled, area.box, side=self._recipe.view_side)
        ledger.enter("crop", "changed")
        return CleanFrame(
            source=frame.source,
            view=view,
            view_box=view_box(area.box),
            content_area=area.box,
            synthetic=hole,
            ledger=tuple(ledger.entries),
        )


class _Figures(TypedDict, total=False):
    reason: str
    mask_area: int
    pixels_changed: int


class _Ledger:
    """The entries of one frame; a step's time runs from the entry before it."""

    def __init__(self) -> None:
        self.entries: list[LedgerEntry] = []
        self._since = perf_counter()

    def enter(self, step: str, decision: str, **figures: Unpack[_Figures]) -> None:
        now = perf_counter()
        self.entries.append(LedgerEntry(step, decision, milliseconds=1000 * (now - self._since), **figures))
        self._since = now
