"""What the artefacts alone tell about the label, before and after the cleaning: ``make leak-study``.

A classifier that must not see mucosa is given only the border's geometry, only the removed pixels, or only
the filled ones. AUCs are averaged over the folds; p is the share of label permutations over pseudo-patients
that reach as much. One JSON object; committed as docs/results/artefact-leak.json.

What own mask less swapped mask asks, and how it is made to ask only that
------------------------------------------------------------------------
That something was filled, and where, the mask tells; the question is whether the filled *pixels* tell more:
whether what stood there shines through. So the two judges may differ in one thing alone: each sees the frames
filled in one place, (b) where their own overlay stood, (c) where one stands on a frame of the other class.

- (c) fills both places and shows the other's. No input of the model holds an overlay beside a filled hole:
  ink that runs from one into the other would be a leak of the study, not of the cleaning.
- Whether a frame bears an overlay stays as it is: one that does takes the mask that a frame of the other
  class has with its overlay, one that does not takes that of a bare one. Drawn from any frame, 80 and 30 %
  with a hole become 30 and 80 %: another set, with another AUC even where nothing was painted.
- Masks are dealt out within the fold, each once before any twice. Were one mask learned from and judged on,
  its outline would tell the label; were a few used often, (c) had fewer outlines to learn from than (b).
- The overlay differs between the classes in colour too. Were its presence all that goes with the label, the
  hole would say everything that the ink could, and no leak could make the difference grow. Its mask is that
  found with white ink on either class: masks found in two colours tell the classes apart by their outlines
  (AUC 0.73 with text on every frame), and own less swapped was 0.057 where nothing had been painted.

`null_control` is the same on frames that were never painted: a difference there is of outlines and tissue,
not of ink. On a seed that the study was made with it was 0.039 (0.008 to 0.066), with ink as without, and on
three the mask of another frame of the same class told 0.02 more than one of the other class: an outline that
was found on tissue of one's own class agrees with it. Own less swapped holds that as well.
`positive_control` has a filling that keeps a little of the ink.
`b_less_b_never_painted` has the same holes on both sides and no swap: all that ink can add to (b).
`c_of_any_frame` and `c_ink_left_in` take masks of any frame of the other class and any fold, the second with
the frame's own overlay left in.
"""

import argparse
import csv
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from models.graph import build_trunk
from models.make_reference import WEIGHTS
from pipeline.clean.cleaner import Cleaner
from pipeline.clean.content_area import find_content_area
from pipeline.clean.crop import VIEW_SIDE, view_box
from pipeline.clean.fill import Inpainter, fill, telea
from pipeline.clean.recipe import Recipe
from pipeline.frame import CleanFrame, Frame, FrameSource, Pixels
from pipeline.tools import open_cleaner
from tests.overlays import Line, paint
from tests.studies.blind_judge import CELLS, GREY, Floats, Frames, Judge, Mask, told

DARK = 24
OVERLAY_GIVEN_COLITIS, OVERLAY_GIVEN_NORMAL = 0.8, 0.3
INK_OF_COLITIS, INK_OF_NORMAL = (240, 240, 240), (90, 255, 90)
INK_KEPT = 0.1
"""Of what stood in the hole, by the filling of the positive control."""

SEEDS = (2026, 2027, 2028, 2029, 2030)
"""Of which frames bear text and which masks are drawn; none was used while the study was made. Own mask less
swapped mask is the mean over them; the first is reported in full."""


@dataclass(frozen=True, slots=True, eq=False)
class Cleaned:
    """A frame's pixels, its content mask and hole in source geometry, and where its view lies."""

    pixels: Pixels
    content: Mask
    hole: Mask
    box: tuple[int, int, int, int]


def load(data: Path) -> Frames:
    """Return every frame of pseudo_patients.csv."""
    with (data / "pseudo_patients.csv").open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    pixels = [cv2.imread(str(data / row["path"]), cv2.IMREAD_COLOR_RGB) for row in rows]
    return Frames(
        pixels=[picture.astype(np.uint8) for picture in pixels if picture is not None],
        labels=np.array([row["label"] == "uc" for row in rows]),
        patients=np.unique([row["pseudo_patient_id"] for row in rows], return_inverse=True)[1],
        folds=np.array([int(row["cv_fold"]) for row in rows]),
    )


def paint_all(frames: Frames, *, ink_of_normal: tuple[int, int, int]) -> list[Pixels]:
    """Return every frame with text over the tissue of its view, its place drawn alike for both classes."""
    generator, painted = np.random.default_rng(101), []
    for pixels, label in zip(frames.pixels, frames.labels, strict=True):
        x, y = int(generator.integers(100, 130)), int(generator.integers(60, 180))
        ink = INK_OF_COLITIS if label else ink_of_normal
        line = Line("12/03/2013", x, y, size=14, colour=ink)
        painted.append(paint(pixels, [line]).pixels)
    return painted


def clean(frames: Sequence[Pixels], cleaner: Cleaner) -> list[Cleaned]:
    """Clean every frame in source geometry; a rejected one has no hole."""

    def one(number: int) -> Cleaned:
        pixels = frames[number]
        area = find_content_area(pixels)
        cleaned = cleaner.clean(Frame(pixels=pixels.copy(), source=FrameSource("1.2.3", number + 1)))
        content = np.ones(pixels.shape[:2], bool) if area is None else area.mask
        box = (0, 0, pixels.shape[1], pixels.shape[0]) if area is None else area.box
        hole = cleaned.synthetic if isinstance(cleaned, CleanFrame) else np.zeros_like(content)
        return Cleaned(pixels, content, hole, view_box(box))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(one, range(len(frames))))


def filled_only(
    cleaned: Cleaned, shown: Mask, *, also: Mask | None = None, inpainter: Inpainter = telea
) -> Pixels:
    """Return the model's view of a frame filled under `shown`, and `also`, with all but `shown` blanked."""
    filled, hole = fill(
        cleaned.pixels, shown if also is None else shown | also, cleaned.content, inpainter=inpainter
    )
    return _viewed(np.where((hole & shown)[..., None], filled, np.uint8(GREY)), cleaned)


def leaky(pixels: Pixels, unknown: Mask) -> Pixels:
    """Paint as Telea does, but keep a little of what stood there."""
    return np.rint((1 - INK_KEPT) * telea(pixels, unknown) + INK_KEPT * pixels).astype(np.uint8)


def _viewed(pixels: Pixels, cleaned: Cleaned) -> Pixels:
    x0, y0, x1, y1 = cleaned.box
    return cv2.resize(pixels[y0:y1, x0:x1], (VIEW_SIDE, VIEW_SIDE), interpolation=cv2.INTER_AREA).astype(
        np.uint8
    )


def pooled(mask: Mask) -> Floats:
    """Return a mask as 16x16 shares."""
    shares = cv2.resize(mask.astype(np.float32), (CELLS * 16, CELLS * 16), interpolation=cv2.INTER_AREA)
    return np.asarray(shares.reshape(CELLS, 16, CELLS, 16).mean(axis=(1, 3)).ravel(), np.float64)


def in_view(cleaned: Cleaned, mask: Mask) -> Mask:
    """Return the part of a mask that the model's view shows."""
    x0, y0, x1, y1 = cleaned.box
    return mask[y0:y1, x0:x1]


def masks_of_the_other_class(
    frames: Frames, states: Sequence[Sequence[Cleaned]], bears: Mask, seed: int
) -> list[Mask]:
    """Return for each frame the hole of one of the other class in its fold, bare or painted as itself."""
    generator, drawn = np.random.default_rng(seed), [each.hole for each in states[0]]
    for label, fold, painted in product((False, True), np.unique(frames.folds), (False, True)):
        near = frames.folds == fold
        mine = np.flatnonzero(near & (frames.labels == label) & (bears == painted))
        theirs = generator.permutation(np.flatnonzero(near & (frames.labels != label)))
        for frame, other in zip(mine, np.resize(theirs, len(mine)), strict=True):
            drawn[frame] = states[painted][other].hole
    return drawn


def see_own(judge: Judge, cleaned: Sequence[Cleaned], inpainter: Inpainter = telea) -> Floats:
    """Return what is seen of (b)."""
    return judge.see([filled_only(each, each.hole, inpainter=inpainter) for each in cleaned])


def see_swapped(
    judge: Judge, cleaned: Sequence[Cleaned], masks: Sequence[Mask], inpainter: Inpainter = telea
) -> Floats:
    """Return what is seen of (c)."""
    pairs = zip(cleaned, masks, strict=True)
    return judge.see([filled_only(each, mask, also=each.hole, inpainter=inpainter) for each, mask in pairs])


def compare(judge: Judge, own: Floats, other: Floats) -> dict[str, Any]:
    """Return what (b) and (c) tell, and their difference."""
    return {
        "b_filled_pixels_own_mask": judge.judge(own),
        "c_filled_pixels_mask_of_the_other_class": judge.judge(other),
        "b_less_c": judge.difference(own, other),
    }


def after(
    judge: Judge, cleaned: Sequence[Cleaned], masks: Sequence[Mask], own: Floats, other: Floats
) -> dict[str, Any]:
    """Return what the model's input still tells where it is not mucosa."""
    seen = [in_view(each, each.hole) for each in cleaned]
    moved = [in_view(each, mask) for each, mask in zip(cleaned, masks, strict=True)]
    return {
        "frames_with_filled_pixels_in_view": int(sum(bool(mask.any()) for mask in seen)),
        "a_mask_geometry": judge.judge(np.stack([pooled(mask) for mask in seen])),
        "a_geometry_of_the_masks_of_c": judge.judge(np.stack([pooled(mask) for mask in moved])),
        **compare(judge, own, other),
    }


def correlated(judge: Judge, plain: Sequence[Cleaned], painted: Sequence[Cleaned]) -> dict[str, Any]:
    """Return what is told where the overlay and its colour go with the label, by seed, and the controls."""
    found: list[Floats] = []
    frames = judge.frames
    first: dict[str, Any] = {}
    for seed in SEEDS:
        chance = np.where(frames.labels, OVERLAY_GIVEN_COLITIS, OVERLAY_GIVEN_NORMAL)
        bears = np.random.default_rng(seed).random(len(plain)) < chance
        cleaned = [inked if on else bare for bare, inked, on in zip(plain, painted, bears, strict=True)]
        masks = masks_of_the_other_class(frames, (plain, painted), bears, seed)
        own, other = see_own(judge, cleaned), see_swapped(judge, cleaned, masks)
        found.append(judge.differences(own, other))
        if not first:
            never = [replace(each, pixels=bare.pixels) for each, bare in zip(cleaned, plain, strict=True)]
            kept, clear = see_own(judge, cleaned, leaky), see_own(judge, never)
            first = {
                "seed": seed,
                **after(judge, cleaned, masks, own, other),
                "b_less_b_never_painted": judge.difference(own, clear),
                "null_control": compare(judge, clear, see_swapped(judge, never, masks)),
                "positive_control": {
                    "ink_kept": INK_KEPT,
                    "b_less_b_never_painted": judge.difference(kept, clear),
                    **compare(judge, kept, see_swapped(judge, cleaned, masks, leaky)),
                },
                **former(judge, cleaned, own, seed),
            }
    return {
        "overlay_on_colitis": OVERLAY_GIVEN_COLITIS,
        "overlay_on_normal": OVERLAY_GIVEN_NORMAL,
        "b_less_c": told(np.stack(found)),
        "b_less_c_by_seed": {str(seed): told(each[None]) for seed, each in zip(SEEDS, found, strict=True)},
        "first_seed": first,
    }


def former(judge: Judge, cleaned: Sequence[Cleaned], own: Floats, seed: int) -> dict[str, Any]:
    """Return (c), and (b) less (c), where the masks are of any frame of the other class."""
    generator, labels = np.random.default_rng(seed), judge.frames.labels
    masks = [cleaned[generator.choice(np.flatnonzero(labels != label))].hole for label in labels]
    seen = {
        "c_of_any_frame": see_swapped(judge, cleaned, masks),
        "c_ink_left_in": judge.see([filled_only(c, mask) for c, mask in zip(cleaned, masks, strict=True)]),
    }
    return {
        name: {**judge.judge(other), "b_less_this": judge.difference(own, other)}
        for name, other in seen.items()
    }


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--permutations", type=int, default=500)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    steps = tuple(step for step in Recipe().steps if step not in ("quality", "crop"))
    cleaner = open_cleaner(Recipe(steps=steps))
    frames = load(arguments.data)
    judge = Judge(frames, build_trunk(arguments.data / WEIGHTS), arguments.permutations)
    cleaned = clean(frames.pixels, cleaner)
    bare = np.zeros(len(cleaned), np.bool_)
    masks = masks_of_the_other_class(frames, (cleaned, cleaned), bare, SEEDS[0])
    dark = np.stack([pooled(pixels.max(axis=2) <= DARK) for pixels in frames.pixels])
    dark_in_view = np.stack([pooled(_viewed(each.pixels, each).max(axis=2) <= DARK) for each in cleaned])
    removed = [
        cv2.resize(
            np.where((item.content & ~item.hole)[..., None], np.uint8(GREY), item.pixels),
            (VIEW_SIDE, VIEW_SIDE),
        )
        for item in cleaned
    ]
    white = clean(paint_all(frames, ink_of_normal=INK_OF_COLITIS), cleaner)
    inked = paint_all(frames, ink_of_normal=INK_OF_NORMAL)
    painted = [replace(each, pixels=pixels) for each, pixels in zip(white, inked, strict=True)]
    result = {
        "frames": len(frames.labels),
        "pseudo_patients": int(frames.patients.max()) + 1,
        "permutations": arguments.permutations,
        "matched_256": {
            "before": {
                "dark_map_16x16": judge.judge(dark),
                "removed_pixels": judge.judge(judge.see([picture.astype(np.uint8) for picture in removed])),
            },
            "after": {
                "dark_map_16x16_of_the_view": judge.judge(dark_in_view),
                **after(
                    judge, cleaned, masks, see_own(judge, cleaned), see_swapped(judge, cleaned, masks)
                ),
            },
        },
        "overlay_correlated_with_label": correlated(judge, cleaned, painted),
    }  # fmt: skip
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
