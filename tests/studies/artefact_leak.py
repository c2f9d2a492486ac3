"""What the artefacts alone tell about the label, before and after the cleaning: ``make leak-study``.

A classifier that must not see mucosa is given only the border's geometry, only the removed pixels, or only
the filled ones. AUCs are averaged over the folds; p is the share of label permutations over pseudo-patients
that reach as much. One JSON object; committed as docs/results/artefact-leak.json.
"""

import argparse
import csv
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from models.graph import batches, build_trunk, embed, normalise
from models.make_reference import WEIGHTS
from pipeline.clean.cleaner import Cleaner
from pipeline.clean.content_area import find_content_area
from pipeline.clean.crop import VIEW_SIDE, view_box
from pipeline.clean.fill import fill
from pipeline.clean.recipe import Recipe
from pipeline.frame import CleanFrame, Frame, FrameSource, Pixels
from pipeline.tools import open_cleaner
from tests.overlays import Line, paint

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
CELLS = 16
DARK = 24
GREY = 128
"""What stands where mucosa is blanked."""

PENALTY = 0.1
"""Of the ridge, as a share of the kernel's mean diagonal times the frames fitted on."""

OVERLAY_GIVEN_COLITIS, OVERLAY_GIVEN_NORMAL = 0.8, 0.3


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """The frames, and a label, pseudo-patient and fold each."""

    pixels: list[Pixels]
    labels: Mask
    patients: NDArray[np.int64]
    folds: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Cleaned:
    """A frame's content mask and hole, in source geometry, and where its view lies."""

    content: Mask
    hole: Mask
    box: tuple[int, int, int, int]


class Study:
    """One set of frames and what can be told from parts of them."""

    def __init__(self, frames: Frames, trunk: Any, permutations: int) -> None:
        self.frames, self._trunk, self._permutations = frames, trunk, permutations
        generator = np.random.default_rng(0)
        of_patient = np.zeros(frames.patients.max() + 1, bool)
        of_patient[frames.patients] = frames.labels
        self._permuted = np.stack(
            [generator.permutation(of_patient)[frames.patients] for _ in range(permutations)], 1
        )

    def judge(self, features: Floats) -> dict[str, float]:
        """Return the AUC averaged over folds, that of permuted labels, and p."""
        scores = self.predict(features, np.column_stack([self.frames.labels, self._permuted]).astype(float))
        found = [self._auc(scores[:, 0], self.frames.labels)]
        found += [self._auc(scores[:, at + 1], self._permuted[:, at]) for at in range(self._permutations)]
        null = np.array(found[1:])
        p = (1 + (null >= found[0]).sum()) / (1 + len(null))
        return {"auc": round(found[0], 4), "permuted_mean": round(float(null.mean()), 4),
                "permuted_sd": round(float(null.std(ddof=1)), 4), "p": round(float(p), 4)}  # fmt: skip

    def predict(self, features: Floats, targets: Floats) -> Floats:
        """Return out-of-fold predictions of a ridge for ``(N, T)`` targets at once."""
        predicted = np.zeros_like(targets)
        for fold in np.unique(self.frames.folds):
            out = self.frames.folds == fold
            mean, spread = features[~out].mean(0), features[~out].std(0)
            used = spread > 0
            if not used.any():
                continue
            given = (features[:, used] - mean[used]) / spread[used]
            kernel = given @ given[~out].T / used.sum()
            fitted = kernel[~out] + PENALTY * np.eye(int((~out).sum())) * kernel[~out].trace() / (~out).sum()
            centred = targets[~out] - targets[~out].mean(0)
            predicted[out] = kernel[out] @ np.linalg.solve(fitted, centred)
        return predicted

    def _auc(self, scores: Floats, labels: Mask) -> float:
        each = [
            roc_auc_score(labels[self.frames.folds == fold], scores[self.frames.folds == fold])
            for fold in np.unique(self.frames.folds)
            if 0 < labels[self.frames.folds == fold].mean() < 1
        ]
        return float(np.mean(each))

    def difference(self, own: Floats, swapped: Floats, draws: int = 1000) -> dict[str, float]:
        """Return AUC(own) - AUC(swapped) with its 95 % interval, bootstrapped over pseudo-patients."""
        labels = self.frames.labels
        first, second = (self.predict(x, labels[:, None].astype(float))[:, 0] for x in (own, swapped))
        generator = np.random.default_rng(1)
        found: list[float] = []
        members = [
            np.flatnonzero(self.frames.patients == each) for each in range(self.frames.patients.max() + 1)
        ]
        while len(found) < draws:
            drawn = np.concatenate(
                [members[each] for each in generator.integers(0, len(members), len(members))]
            )
            part = Study.__new__(Study)
            part.frames = Frames([], labels[drawn], self.frames.patients[drawn], self.frames.folds[drawn])
            if labels[drawn].all() or not labels[drawn].any():
                continue
            found.append(part._auc(first[drawn], labels[drawn]) - part._auc(second[drawn], labels[drawn]))
        low, high = np.quantile(found, [0.025, 0.975])
        return {"difference": round(self._auc(first, labels) - self._auc(second, labels), 4),
                "low": round(float(low), 4), "high": round(float(high), 4)}  # fmt: skip

    def see(self, views: Sequence[Pixels]) -> Floats:
        """Return what the trunk and a coarse look see in views that hold artefacts alone."""
        stacked = np.stack(views)
        deep = embed(self._trunk, map(normalise, batches(stacked)))
        side = VIEW_SIDE // CELLS
        coarse = stacked.reshape(-1, CELLS, side, CELLS, side, 3).mean(axis=(2, 4)).reshape(len(stacked), -1)
        return np.concatenate([deep, coarse], axis=1).astype(np.float64)


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


def with_overlays(frames: Frames) -> Frames:
    """Return the frames with text over the tissue of the view, more often on colitis than on normal."""
    generator, painted = np.random.default_rng(2), []
    for pixels, label in zip(frames.pixels, frames.labels, strict=True):
        chance = OVERLAY_GIVEN_COLITIS if label else OVERLAY_GIVEN_NORMAL
        lines = [
            Line("12/03/2013", int(generator.integers(100, 130)), int(generator.integers(60, 180)), size=14)
        ]
        painted.append(paint(pixels, lines).pixels if generator.random() < chance else pixels)
    return Frames(painted, frames.labels, frames.patients, frames.folds)


def clean(frames: Frames, cleaner: Cleaner) -> list[Cleaned]:
    """Clean every frame in source geometry; a rejected one has no hole."""

    def one(number: int) -> Cleaned:
        pixels = frames.pixels[number]
        area = find_content_area(pixels)
        cleaned = cleaner.clean(Frame(pixels=pixels.copy(), source=FrameSource("1.2.3", number + 1)))
        content = np.ones(pixels.shape[:2], bool) if area is None else area.mask
        box = (0, 0, pixels.shape[1], pixels.shape[0]) if area is None else area.box
        hole = cleaned.synthetic if isinstance(cleaned, CleanFrame) else np.zeros_like(content)
        return Cleaned(content, hole, view_box(box))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(one, range(len(frames.pixels))))


def filled_only(pixels: Pixels, cleaned: Cleaned, hole: Mask) -> Pixels:
    """Return the model's view of a frame filled under `hole`, with all real mucosa blanked."""
    filled, filled_hole = fill(pixels, hole, cleaned.content)
    return _viewed(np.where(filled_hole[..., None], filled, np.uint8(GREY)), cleaned)


def _viewed(pixels: Pixels, cleaned: Cleaned) -> Pixels:
    x0, y0, x1, y1 = cleaned.box
    return cv2.resize(pixels[y0:y1, x0:x1], (VIEW_SIDE, VIEW_SIDE), interpolation=cv2.INTER_AREA).astype(
        np.uint8
    )


def pooled(mask: Mask) -> Floats:
    """Return a mask as 16x16 shares."""
    shares = cv2.resize(mask.astype(np.float32), (CELLS * 16, CELLS * 16), interpolation=cv2.INTER_AREA)
    return np.asarray(shares.reshape(CELLS, 16, CELLS, 16).mean(axis=(1, 3)).ravel(), np.float64)


def after(study: Study, cleaned: list[Cleaned]) -> dict[str, Any]:
    """Return what the model's input still tells where it is not mucosa."""
    frames, generator = study.frames, np.random.default_rng(3)
    others = {label: np.flatnonzero(frames.labels != label) for label in (False, True)}
    swapped = [cleaned[generator.choice(others[bool(label)])].hole for label in frames.labels]
    seen = [item.hole[slice(*item.box[1::2]), slice(*item.box[0::2])] for item in cleaned]
    own = study.see([filled_only(p, c, c.hole) for p, c in zip(frames.pixels, cleaned, strict=True)])
    other = study.see([filled_only(p, c, h) for p, c, h in zip(frames.pixels, cleaned, swapped, strict=True)])
    return {
        "frames_with_filled_pixels_in_view": int(sum(bool(mask.any()) for mask in seen)),
        "a_mask_geometry": study.judge(np.stack([pooled(mask) for mask in seen])),
        "b_filled_pixels_own_mask": study.judge(own),
        "c_filled_pixels_mask_of_the_other_class": study.judge(other),
        "b_less_c": study.difference(own, other),
    }


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--permutations", type=int, default=500)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    trunk = build_trunk(arguments.data / WEIGHTS)
    steps = tuple(step for step in Recipe().steps if step not in ("quality", "crop"))
    cleaner = open_cleaner(Recipe(steps=steps))
    frames = load(arguments.data)
    study, cleaned = Study(frames, trunk, arguments.permutations), clean(frames, cleaner)
    dark = np.stack([pooled(pixels.max(axis=2) <= DARK) for pixels in frames.pixels])
    in_view = np.stack(
        [pooled(_viewed(p, c).max(axis=2) <= DARK) for p, c in zip(frames.pixels, cleaned, strict=True)]
    )
    removed = [
        cv2.resize(
            np.where((item.content & ~item.hole)[..., None], np.uint8(GREY), pixels), (VIEW_SIDE, VIEW_SIDE)
        )
        for pixels, item in zip(frames.pixels, cleaned, strict=True)
    ]
    painted = Study(with_overlays(frames), trunk, arguments.permutations)
    result = {
        "frames": len(frames.labels),
        "pseudo_patients": int(frames.patients.max()) + 1,
        "permutations": arguments.permutations,
        "matched_256": {
            "before": {
                "dark_map_16x16": study.judge(dark),
                "removed_pixels": study.judge(study.see([picture.astype(np.uint8) for picture in removed])),
            },
            "after": {"dark_map_16x16_of_the_view": study.judge(in_view), **after(study, cleaned)},
        },
        "overlay_correlated_with_label": {
            "overlay_on_colitis": OVERLAY_GIVEN_COLITIS,
            "overlay_on_normal": OVERLAY_GIVEN_NORMAL,
            "after": after(painted, clean(painted.frames, cleaner)),
        },
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
