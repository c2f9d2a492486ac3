"""Clean a frame: the steps in their order, each entered in the frame's ledger."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TypedDict, Unpack

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.clean.content_area import ContentArea, find_content_area
from pipeline.clean.crop import crop_view, view_box
from pipeline.clean.fill import Inpainter, fill, telea
from pipeline.clean.instruments import InstrumentDetector
from pipeline.clean.layout import Layout, Spread, is_of, layout_text, learn_layouts
from pipeline.clean.quality import refusal
from pipeline.clean.recipe import DEFAULT, Recipe
from pipeline.clean.text import TextDetector
from pipeline.frame import CleanFrame, Frame, LedgerEntry, Pixels, RejectedFrame

Mask = NDArray[np.bool_]

INSTRUMENT_MARGIN = 0.01
"""Growth of an instrument's mask, as a share of the short side (6 px at 576): it sits just inside the
outline, and a rim of metal left over would be smeared into the fill. On 144 composites of held-out scenes,
masks and textures a median of 4.2 % of the instrument is left without it, 0.6 % at 0.005, 0.06 % at 0.01,
none at 0.015; the tissue masked with it is 0.15, 0.5, 1.1 and 1.9 % of the frame."""


@dataclass(frozen=True, slots=True, eq=False)
class Tools:
    """What the steps of a recipe work with; one is absent where its step is.

    One may be shared by threads where it says so itself.
    """

    text: TextDetector | None = None
    instruments: InstrumentDetector | None = None
    inpainter: Inpainter = telea


class Cleaner:
    """Frame in, clean frame or rejection out; it keeps nothing between frames.

    One cleaner may be shared by threads where its tools may. The process, not the cleaner, decides on
    OpenCV's own threads: a process that runs one worker thread a core calls ``cv2.setNumThreads(1)`` first.
    """

    def __init__(self, tools: Tools, recipe: Recipe = DEFAULT) -> None:
        for step in ("text", "instruments"):
            if (step in recipe.steps) != (getattr(tools, step) is not None):
                raise ValueError(
                    f"tools: one for {step} was expected where the recipe has that step, only there"
                )
        self.tools = tools
        self.recipe = recipe

    def learn(self, samples: Iterable[Pixels], *, spread: Spread = map) -> tuple[Layout, ...]:
        """Return what stands still in an exam, from its sampled RGB frames (`pipeline.clean.layout`)."""
        if "content_area" not in self.recipe.steps:
            return ()
        return learn_layouts(samples, self.tools.text, spread=spread)

    def clean(self, frame: Frame, layouts: Sequence[Layout] = ()) -> CleanFrame | RejectedFrame:
        """Return the frame fit to be read, or why it is not; the ledger tells each step.

        Of the exam's `layouts` that which the frame is found to have spares it the full search.
        """
        ledger, steps, pixels = _Ledger(), self.recipe.steps, frame.pixels
        layout = next((layout for layout in layouts if is_of(pixels, layout.area)), None)
        area: ContentArea | None = layout.area if layout else None
        if "content_area" not in steps:
            area = ContentArea((0, 0, pixels.shape[1], pixels.shape[0]), np.ones(pixels.shape[:2], np.bool_))
        else:
            area = area or find_content_area(pixels)
            if area is None:
                ledger.enter("content_area", "rejected", reason="no_content")
                return RejectedFrame(frame.source, "no_content", tuple(ledger.entries))
            known = "known_layout" if layout else None
            ledger.enter("content_area", "passed", reason=known, mask_area=int(np.count_nonzero(area.mask)))
        if "quality" in steps:
            reason = refusal(pixels, area, self.recipe.quality)
            if reason is not None:
                ledger.enter("quality", "rejected", reason=reason)
                return RejectedFrame(frame.source, reason, tuple(ledger.entries), area.box)
            ledger.enter("quality", "passed")
        hole = self._find(pixels, area, layout, layouts, ledger)
        filled = pixels
        if "fill" in steps:
            filled, hole = fill(pixels, hole, area.mask, inpainter=self.tools.inpainter)
            changed = 0 if filled is pixels else _differing(filled, pixels)
            ledger.enter(
                "fill", "changed" if changed else "passed",
                mask_area=int(np.count_nonzero(hole)), pixels_changed=changed,
            )  # fmt: skip
        view, seen = filled, (0, 0, pixels.shape[1], pixels.shape[0])
        if "crop" in steps:
            view, seen = crop_view(filled, area.box, side=self.recipe.view_side), view_box(area.box)
            ledger.enter("crop", "changed")
        return CleanFrame(
            source=frame.source,
            view=view,
            view_box=seen,
            content_area=area.box,
            synthetic=hole if "fill" in steps else np.zeros_like(hole),
            ledger=tuple(ledger.entries),
        )

    def _find(
        self,
        pixels: Pixels,
        area: ContentArea,
        layout: Layout | None,
        layouts: Sequence[Layout],
        ledger: "_Ledger",
    ) -> Mask:
        """Return the union of what is to go: text and instruments."""
        rows, columns = pixels.shape[:2]
        hole = np.zeros((rows, columns), np.bool_)
        if self.tools.text is not None:
            text, known = layout_text(pixels, area, self.tools.text, layout=layout, layouts=layouts)
            reason = "known_text" if known else None
            ledger.enter("text", "passed", reason=reason, mask_area=int(np.count_nonzero(text)))
            hole |= text
        if self.tools.instruments is not None:
            instruments = _grown(self.tools.instruments(pixels)) & area.mask
            ledger.enter("instruments", "passed", mask_area=int(np.count_nonzero(instruments)))
            hole |= instruments
        return hole


def _differing(filled: Pixels, pixels: Pixels) -> int:
    red, green, blue = cv2.split(cv2.absdiff(filled, pixels))
    return cv2.countNonZero(cv2.bitwise_or(cv2.bitwise_or(red, green), blue))


def _grown(instruments: Mask) -> Mask:
    if not instruments.any():
        return instruments
    side = 2 * round(INSTRUMENT_MARGIN * min(instruments.shape)) + 1
    return cv2.dilate(instruments.view(np.uint8), np.ones((side, side), np.uint8)).view(np.bool_)


class _Figures(TypedDict, total=False):
    reason: str | None
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
