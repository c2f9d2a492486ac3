"""The instrument network's card: its manifest's numbers, in words, with what they cannot say first."""

from collections.abc import Mapping
from typing import Any

ANCHOR = 0.916
"""Dice of a U-Net trained and tested on Kvasir-Instrument's own frames (Jha et al. 2021)."""

_COMPOSITE_ROWS = {
    "Dice, mean over frames": "dice_mean",
    "its standard error": "dice_standard_error",
    "Dice, median": "dice_median",
    "Dice, 10th percentile": "dice_10th_percentile",
    "Dice of all pixels pooled": "dice_pooled",
}
_FREE_ROWS = {
    "masked share, median": "masked_share_median",
    "masked share, mean": "masked_share_mean",
    "frames above 2 %": "frames_above_2_percent",
    "frames with any mask": "frames_with_any",
}


def _table(*rows: tuple[str, ...]) -> str:
    head, *body = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([head, "|" + " --- |" * len(rows[0]), *body])


def describe(manifest: Mapping[str, Any]) -> str:
    """Return the card, in Markdown."""
    metrics, learnt, taken = manifest["metrics"], manifest["training_data"], manifest["input"]
    int8, floating = metrics["composites_int8"], metrics["composites_float"]
    real, real_float = metrics["real_pairs_int8"], metrics["real_pairs_float"]
    free, capsule = metrics["instrument_free_int8"], metrics["capsule_int8"]
    composites = _table(
        (f"{int8['frames']} composites", "int8, as shipped", "float"),
        *((title, f"{int8[key]:.3f}", f"{floating[key]:.3f}") for title, key in _COMPOSITE_ROWS.items()),
        ("wholly missed", str(int8["missed"]), str(floating["missed"])),
    )
    pairs = _table(
        ("Real pair", "int8", "float"),
        *(
            (pair["kind"], f"{pair['dice']:.3f}", f"{other['dice']:.3f}")
            for pair, other in zip(real["pairs"], real_float["pairs"], strict=True)
        ),
        ("median", f"{real['dice_median']:.3f}", f"{real_float['dice_median']:.3f}"),
    )
    frees = _table(
        ("Real frames without instruments", f"colonoscopy, held out, {free['frames']}",
         f"capsule, another device, {capsule['frames']}"),
        *(
            (title, f"{100 * free[key]:.2f} %", f"{100 * capsule[key]:.2f} %")
            for title, key in _FREE_ROWS.items()
        ),
    )  # fmt: skip
    made = (
        f"A U-Net of {learnt['parameters']:,} parameters at half of {taken['rows']} x {taken['columns']}, "
        f"{learnt['epochs']} epochs,\n{learnt['frames_drawn']:,} composites of {learnt['masks']} masks and "
        f"{learnt['scenes']} scenes."
    )
    return f"""# {manifest["name"]} {manifest["version"]}

Finds instruments (forceps, snares, clips, catheters) in frames of colonoscopy, so that the cleaning can take
them out before a frame is read. Research use: it is no medical device, and a mask is no finding.

## What it cannot do

It has never seen a real frame with an instrument. It was trained on composites: outlines of real instruments,
painted by us, on real mucosa. What composites do not hold it may miss: a retroflexed endoscope, a transparent
cap, a black tool before a dark lumen, a thin wire, narrow-band light, blood over a tool.

Real frames with an instrument and its mask are few in reach: 1 with its true mask, 7 drawn by hand, 5 crops
of a figure, 140 pixels wide. None of the {len(real["pairs"])} took part in training or in a threshold; but
they were looked at while the painting was made, so they are not blind. They can show that the network
transfers to real tools at all, and which kinds it misses. They cannot give a rate, nor rank two networks: the
95 % interval of a median of 13 runs from the third to the eleventh value. The published anchor, a U-Net
trained on real frames of Kvasir-Instrument, reaches Dice {ANCHOR} on its held-out frames: another test, of
its own kind.

## Figures

{metrics["protocol"]}.

{composites}

{pairs}

{frees}

## How it was made

`make instrument-model`. {made}
Masks are split by likeness, scenes by near-duplicate group; `held_out.txt` names what took no part.
Quantisation: {manifest["quantisation"]["recipe"]}.

## Data

Masks: Kvasir-Instrument (Jha et al. 2021). Scenes: HyperKvasir (Borgli et al. 2020) and Kvasir-SEG (Jha et
al. 2020). Their terms are research and education. None of their images is in the package.
"""
