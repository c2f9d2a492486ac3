"""How fast an exam is cleaned: what stands still found once a layout, beside everything found on every frame.

1000 frames of 720x576, in memory, on one core; decoding and writing are left out. Both sides do the same
steps (content area, quality, text, fill) and are timed in turn on the same frames. The chain it is held
against works every frame at full resolution: outline, Laplacian, text detection, Telea. One JSON line.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pipeline.adapters.rapid_text import RapidText
from pipeline.clean.cleaner import Cleaner, Tools
from pipeline.clean.content_area import find_content_area
from pipeline.clean.layout import sampled
from pipeline.clean.overlay import find_text
from pipeline.clean.recipe import Recipe
from pipeline.frame import CleanFrame, Frame, FrameSource, Pixels
from tests.exam_frames import Exam, load_tissue, paint_exam

STEPS = ("content_area", "quality", "text", "fill")
MISSED_BELOW = 0.5
"""Share of a string's pixels under which it counts as wholly missed."""


def naive(pixels: Pixels, detector: RapidText) -> tuple[NDArray[np.bool_], dict[str, float]]:
    """Clean one frame with nothing remembered, at full resolution; return its text mask and milliseconds."""
    marks = [time.perf_counter()]
    area = find_content_area(pixels)
    if area is None:
        raise ValueError("the benchmark's frames have content")
    marks.append(time.perf_counter())
    cv2.Laplacian(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.CV_64F)[area.mask].var()
    marks.append(time.perf_counter())
    text = find_text(detector, pixels)
    marks.append(time.perf_counter())
    hole = text & area.mask
    if hole.any():
        cv2.inpaint(pixels, hole.astype(np.uint8), 5, cv2.INPAINT_TELEA)
    marks.append(time.perf_counter())
    spent = {
        step: 1000 * (later - earlier) for step, earlier, later in zip(STEPS, marks, marks[1:], strict=False)
    }
    return text, spent


def run(exam: Exam, cleaner: Cleaner, detector: RapidText) -> dict[str, object]:
    """Time both sides over one exam and compare their masks."""
    frames = exam.frames
    started = time.perf_counter()
    layouts = cleaner.learn(frames[place] for place in sampled(len(frames)))
    learning_s = time.perf_counter() - started
    ours_ms: list[float] = []
    naive_ms: list[float] = []
    steps: dict[str, dict[str, list[float]]] = {"ours": {}, "naive": {}}
    confirmed = full_pixels = covered = cached_pixels = missed = 0
    for number, pixels in enumerate(frames):
        started = time.perf_counter()
        cleaned = cleaner.clean(Frame(pixels=pixels, source=FrameSource("1.2.3", number + 1)), layouts)
        ours_ms.append(1000 * (time.perf_counter() - started))
        started = time.perf_counter()
        text, spent = naive(pixels, detector)
        naive_ms.append(1000 * (time.perf_counter() - started))
        for step, milliseconds in spent.items():
            steps["naive"].setdefault(step, []).append(milliseconds)
        for entry in cleaned.ledger:
            steps["ours"].setdefault(entry.step, []).append(entry.milliseconds)
        if not isinstance(cleaned, CleanFrame) or cleaned.ledger[2].reason != "known_text":
            continue
        confirmed += 1
        known = next(
            layout.text.mask for layout in layouts if layout.area.box == cleaned.content_area and layout.text
        )
        full_pixels, cached_pixels = full_pixels + int(text.sum()), cached_pixels + int(known.sum())
        covered += int((text & known).sum())
        missed += sum(known[y0:y1, x0:x1].mean() < MISSED_BELOW for x0, y0, x1, y1 in exam.strings[number])
    per_frame = (sum(ours_ms) + 1000 * learning_s) / len(frames)
    return {
        "frames": len(frames),
        "layouts": len(layouts),
        "naive_ms_a_frame": round(statistics.mean(naive_ms), 2),
        "ours_ms_a_frame": round(per_frame, 2),
        "ratio": round(statistics.mean(naive_ms) / per_frame, 2),
        "learning_s": round(learning_s, 2),
        "confirmed_share": round(confirmed / len(frames), 4),
        "cached_mask": {
            "covers": round(covered / max(1, full_pixels), 4),
            "area_ratio": round(cached_pixels / max(1, full_pixels), 3),
            "strings_missed": int(missed),
        },
        "median_ms_a_step": {
            side: {step: round(statistics.median(spent), 3) for step, spent in found.items()}
            for side, found in steps.items()
        },
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=1000)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    data = Path(os.environ.get("ENDONODE_DATA", default))
    tissue = load_tissue(data)
    if not tissue:
        sys.exit(f"{data}: real frames were expected, none was found; set ENDONODE_DATA")
    detector = RapidText(threads=1)
    cleaner = Cleaner(Tools(text=detector), Recipe(steps=STEPS))
    result = {
        "benchmark": "cleaning",
        "machine": platform.processor() or platform.machine(),
        "steps": STEPS,
        "one_layout": run(paint_exam(tissue, arguments.frames), cleaner, detector),
        "a_change_every_100": run(paint_exam(tissue, arguments.frames, change_every=100), cleaner, detector),
    }
    print(json.dumps(result))  # noqa: T201 - the result


if __name__ == "__main__":
    main()
