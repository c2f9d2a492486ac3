"""What the artefacts alone tell about the label, before and after the cleaning: ``make leak-study``.

A classifier that must not see mucosa is given only the border's geometry, only the removed pixels, or only
the filled ones. AUCs are averaged over the folds; p is the share of label permutations over pseudo-patients
that reach as much. One JSON object; committed as docs/results/artefact-leak.json.

What own mask less swapped mask asks, and how it is made to ask only that
------------------------------------------------------------------------
That something was filled, and where, the mask tells; the question is whether the filled *pixels* tell more:
whether what stood there shines through. In each fold every frame is paired with one of the other class (the
larger class loses some), and the two exchange their masks: (b) shows what is filled under the frame's own
mask, (c) what is filled under its partner's. Between (b) and (c) the masks only change sides, so what they
tell, their outlines and whether there is one at all, they tell as well in (c), with the sign turned. A mask
is used once: drawn twice, its outline would be learned from and judged on.

- (c) fills both places and shows the partner's. No input of the model holds an overlay beside a filled hole:
  ink that runs from one into the other would be a leak of the study, not of the cleaning.
- The overlay differs between the classes in colour too. Were its presence all that goes with the label, the
  hole would say everything that the ink could, and no leak could make the difference grow. Its mask is that
  found with white ink on either class: masks found in two colours tell the classes apart by their outlines.

`null_control` is the same on frames that were never painted, where nothing can shine through. On five seeds
while the study was made it was 0.015, 0.004, -0.014, -0.007 and -0.008, every interval around 0; designs that
were left because it was not are masks drawn with replacement from any frame (-0.06) and masks exchanged among
frames that bear text only (0.039, 0.026, 0.030). `positive_control` has a filling that keeps a little of the
ink. `b_less_b_never_painted` has the same holes on both sides and no swap: all that ink can add to (b).
"""

import argparse
import csv
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from models.training.mobilenet_v2 import MobileNetV2, load_published
from pipeline.clean.cleaner import Cleaner
from pipeline.clean.content_area import find_content_area
from pipeline.clean.crop import VIEW_SIDE, view_box
from pipeline.clean.fill import Inpainter, fill, telea
from pipeline.clean.recipe import Recipe
from pipeline.frame import CleanFrame, Frame, FrameSource, Pixels
from pipeline.tools import open_cleaner
from tests.overlays import Line, paint
from tests.studies.blind_judge import CELLS, GREY, Floats, Frames, Judge, Mask, told

WEIGHTS = "weights/mobilenet_v2_imagenet_dequant_fp32.onnx"
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


def pairs(frames: Frames, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return as many frames of one class as of the other in each fold, and the partner of each."""
    generator, ours, theirs = np.random.default_rng(seed), [], []
    for fold in np.unique(frames.folds):
        of_fold = frames.folds == fold
        first = generator.permutation(np.flatnonzero(of_fold & frames.labels))
        second = generator.permutation(np.flatnonzero(of_fold & ~frames.labels))
        count = min(len(first), len(second))
        ours += [first[:count], second[:count]]
        theirs += [second[:count], first[:count]]
    return np.concatenate(ours), np.concatenate(theirs)


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
        "paired_frames": len(cleaned),
        "frames_with_filled_pixels_in_view": int(sum(bool(mask.any()) for mask in seen)),
        "a_mask_geometry": judge.judge(np.stack([pooled(mask) for mask in seen])),
        "a_geometry_of_the_masks_of_c": judge.judge(np.stack([pooled(mask) for mask in moved])),
        **compare(judge, own, other),
    }


def reported(judge: Judge, cleaned: Sequence[Cleaned]) -> dict[str, Any]:
    """Return the same for frames as they are."""
    ours, theirs = pairs(judge.frames, SEEDS[0])
    own, masks = [cleaned[at] for at in ours], [cleaned[at].hole for at in theirs]
    part = judge.of(ours)
    return after(part, own, masks, see_own(part, own), see_swapped(part, own, masks))


def correlated(judge: Judge, plain: Sequence[Cleaned], painted: Sequence[Cleaned]) -> dict[str, Any]:
    """Return what is told where the overlay and its colour go with the label, by seed, and the controls."""
    chance = np.where(judge.frames.labels, OVERLAY_GIVEN_COLITIS, OVERLAY_GIVEN_NORMAL)
    found, null = [], []
    first: dict[str, Any] = {}
    for seed in SEEDS:
        bears = np.random.default_rng(seed).random(len(plain)) < chance
        mixed = [inked if on else bare for bare, inked, on in zip(plain, painted, bears, strict=True)]
        ours, theirs = pairs(judge.frames, seed)
        part, masks = judge.of(ours), [mixed[at].hole for at in theirs]
        cleaned = [mixed[at] for at in ours]
        never = [replace(mixed[at], pixels=plain[at].pixels) for at in ours]
        own, other = see_own(part, cleaned), see_swapped(part, cleaned, masks)
        clear, clear_other = see_own(part, never), see_swapped(part, never, masks)
        found.append(part.differences(own, other))
        null.append(part.differences(clear, clear_other))
        if not first:
            kept = see_own(part, cleaned, leaky)
            first = {
                "seed": seed,
                **after(part, cleaned, masks, own, other),
                "b_less_b_never_painted": part.difference(own, clear),
                "null_control": compare(part, clear, clear_other),
                "positive_control": {
                    "ink_kept": INK_KEPT,
                    "b_less_b_never_painted": part.difference(kept, clear),
                    **compare(part, kept, see_swapped(part, cleaned, masks, leaky)),
                },
            }
    return {
        "overlay_on_colitis": OVERLAY_GIVEN_COLITIS,
        "overlay_on_normal": OVERLAY_GIVEN_NORMAL,
        "b_less_c": told(np.stack(found)),
        "null_control_b_less_c": told(np.stack(null)),
        "b_less_c_by_seed": {str(seed): told(each[None]) for seed, each in zip(SEEDS, found, strict=True)},
        "first_seed": first,
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
    trunk = MobileNetV2()
    load_published(trunk, arguments.data / WEIGHTS)
    judge = Judge(frames, trunk, arguments.permutations)
    cleaned = clean(frames.pixels, cleaner)
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
                **reported(judge, cleaned),
            },
        },
        "overlay_correlated_with_label": correlated(judge, cleaned, painted),
    }  # fmt: skip
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
