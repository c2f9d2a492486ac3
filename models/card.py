"""The model card: a manifest's own numbers, in words, with what they cannot say first."""

from collections.abc import Mapping
from typing import Any

from models.package import DEFAULT_THRESHOLD, DEFAULT_TOP_K

_FRAME_ROWS = {
    "AUC": "auc",
    "MCC": "mcc",
    "Sensitivity": "sensitivity",
    "Specificity": "specificity",
    "Calibration error (ECE, 15 bins)": "ece",
}
_PATIENT_ROWS = {"3 frames": "bags_of_3_int8", "all frames": "whole_pseudo_patients_int8"}
_RULES = {"mean": "plain mean", "rule": f"rule, t = {DEFAULT_THRESHOLD}, k = {DEFAULT_TOP_K}"}


def _text(figure: Mapping[str, float]) -> str:
    interval = f" ({figure['low']:.3f} to {figure['high']:.3f})" if "low" in figure else ""
    return f"{figure['value']:.3f}{interval}"


def _table(*rows: tuple[str, ...]) -> str:
    head, *body = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([head, "|" + " --- |" * len(rows[0]), *body])


def describe(manifest: Mapping[str, Any]) -> str:
    """Return the card, in Markdown."""
    metrics = manifest["metrics"]
    chance, change = metrics["chance_and_leakage"], metrics["int8_less_float"]
    frames = _table(
        ("Frames", "int8, as shipped", "float"),
        *(
            (title, _text(metrics["frame_int8"][key]), _text(metrics["frame_float"][key]))
            for title, key in _FRAME_ROWS.items()
        ),
    )
    patients = _table(
        ("Pseudo-patients", "unpredicted", "MCC, unpredicted as wrong", "MCC of the predicted"),
        *(
            (
                f"{title}, {words}",
                *(_text(metrics[key][rule][name]) for name in metrics[key][rule]),
            )
            for title, key in _PATIENT_ROWS.items()
            for rule, words in _RULES.items()
        ),
    )
    kinds = _table(
        ("Class", "frames", "read rightly"),
        *(
            (kind, str(found["frames"]), f"{found['recall']:.3f}")
            for kind, found in metrics["frame_recall_int8"].items()
        ),
    )
    count = metrics["pseudo_patients"]
    return f"""# {manifest["name"]} {manifest["version"]}

Research use only. Not a medical device; its output is not a diagnosis.

## What the numbers cannot say

- **No patients.** The source has no patient identifiers: {metrics["frames"]} frames were dealt into
  {count} pseudo-patients, near-duplicate scenes kept together. That bounds optimism; it validates no claim
  about patients.
- **Small samples.** Whole pseudo-patients are saturated: 15 frames of one class outvote almost any error.
  No error among {count} still allows an error rate of {1 - 0.025 ** (1 / count):.3f} (Clopper-Pearson, 95 %).
  Judge by the bags of 3 frames.
- **Chance.** With labels permuted over pseudo-patients the procedure reaches an AUC of
  {chance["permuted_labels_auc_mean"]:.3f} on average (sd {chance["permuted_labels_auc_sd"]:.3f}).
- **Leakage.** In the source, borders and the scope-position box tell the classes apart. A 16 x 16 map of what
  is black in the model's view reaches an AUC of {chance["dark_regions_alone_auc"]:.3f} alone. Differences in
  colour between the two groups' equipment were not ruled out.
- **Two answers.** One source, white light, colitis against clean normal colon. No Crohn's disease, no other
  disease and no poor preparation was seen; the model will give one of its two answers to anything.

## Intended use

To exercise a node from end to end, and as the baseline that a later model is compared with: frames of
colonoscopy, cleaned and cropped by the recipe that `model.json` names. `healthy` means that no IBD pattern
was found; other findings are not assessed.

## How it was made

ImageNet MobileNetV2 1.0/224 as published by Google (Apache-2.0), its trunk unchanged. A logistic head
(C = {manifest["training_data"]["head_inverse_penalty"]}) on its embedding, fitted on HyperKvasir (Borgli et
al., Scientific Data 7:283, 2020; CC BY 4.0, permission asked for commercial use: here research only).
Quantised: {manifest["quantisation"]["recipe"]};
calibrated on {manifest["quantisation"]["calibration_frames"]} training frames. Temperature and decision
offset were fitted after quantisation, on left-out folds. The package names no t and k: the published
{DEFAULT_THRESHOLD} and {DEFAULT_TOP_K} apply.

## Figures

{metrics["protocol"]}. The cleaning rejected {metrics["frames_rejected"]} further frames.

{frames}

{kinds}

int8 against float: mean absolute change of the probability {change["mean_absolute_change"]:.4f}, largest
{change["largest_change"]:.4f}; {change["frames_flipped"]} frames change sides.

{patients}
"""
