"""The model card: a manifest's own numbers, in words, with what they cannot say first."""

from collections.abc import Mapping
from typing import Any

from models.counts import clopper_pearson
from models.outcome import BAG

_FRAME_ROWS = {
    "AUC": "auc",
    "MCC": "mcc",
    "Sensitivity": "sensitivity",
    "Specificity": "specificity",
    "Calibration error (ECE, 15 bins)": "ece",
}
_RULES = {"mean": "plain mean", "rule": "rule, t and k as each fold chose"}
_SIMULATED = ("mean", "max", "rule")
_PATIENT_COLUMNS = ("unpredicted", "mcc_unpredicted_wrong", "mcc_of_predicted")


def text(figure: Mapping[str, float]) -> str:
    """Return a figure with its interval, three digits each."""
    interval = f" ({figure['low']:.3f} to {figure['high']:.3f})" if "low" in figure else ""
    return f"{figure['value']:.3f}{interval}"


def table(*rows: tuple[str, ...]) -> str:
    """Return a Markdown table; the first row is its head."""
    head, *body = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([head, "|" + " --- |" * len(rows[0]), *body])


def tables(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Return the tables of frames, finer classes and patients."""
    frames = table(
        ("Frames", "int8, as shipped", "float"),
        *(
            (title, text(metrics["frame_int8"][key]), text(metrics["frame_float"][key]))
            for title, key in _FRAME_ROWS.items()
        ),
    )
    kinds = table(
        ("Class", "frames", "read rightly"),
        *(
            (kind, str(found["frames"]), f"{found['recall']:.3f}")
            for kind, found in metrics["recall_int8"].items()
        ),
    )
    against = table(
        ("Colitis against", "AUC", "MCC"),
        *((kind, text(found["auc"]), text(found["mcc"])) for kind, found in metrics["against_int8"].items()),
    )
    patients = table(
        ("Patients", "unpredicted", "MCC, unpredicted as wrong", "MCC of the predicted"),
        *(
            (f"{_frames(bag)}, {words}", *(text(found[rule][name]) for name in _PATIENT_COLUMNS))
            for bag, found in metrics["bags"].items()
            for rule, words in _RULES.items()
        ),
    )
    seeds = table(
        ("Seed", "AUC, int8", "MCC, int8", "AUC, float", "MCC, float"),
        *(
            (str(number), *(f"{each[name]:.4f}" for each in pair for name in ("auc", "mcc")))
            for number, pair in enumerate(
                zip(metrics["each_seed_int8"], metrics["each_seed_float"], strict=True)
            )
        ),
    )
    simulated = table(
        ("Frames with the lesion", "mean", "max", "rule", "unpredicted by the rule"),
        *(
            (f"{float(share):.0%}", *(f"{found[name]:.3f}" for name in (*_SIMULATED, "unpredicted")))
            for share, found in metrics["simulated"]["mcc"].items()
        ),
    )
    return {"frames": frames, "kinds": kinds, "against": against, "patients": patients, "seeds": seeds,
            "simulated": simulated}  # fmt: skip


def caveats(metrics: Mapping[str, Any]) -> str:
    """Return what the numbers cannot say, in Markdown; chance and leakage where they were measured."""
    count, chance = metrics["patients"], metrics.get("chance_and_leakage")
    least, measured = clopper_pearson(0, count)[1], ""
    if chance is not None:
        measured = f"""
- **Chance.** With labels permuted over pseudo-patients, a logistic regression on the untrained trunk reaches
  an AUC of {chance["permuted_labels_auc_mean"]:.3f} on average (sd {chance["permuted_labels_auc_sd"]:.3f}).
- **Leakage.** In the source, borders and the scope-position box tell the classes apart. A 16 x 16 map of what
  is black in the model's view reaches an AUC of {chance["dark_regions_alone_auc"]:.3f} alone. Differences in
  colour between the two groups' equipment were not ruled out."""
    return f"""- **No patients.** The source has no patient identifiers: {metrics["frames"]} frames were dealt
  into {count} pseudo-patients, near-duplicate scenes kept together. That bounds optimism; it validates no
  claim about patients, and cannot rank ways to read one: every frame shows its patient's class.
- **Small samples.** Whole pseudo-patients are all but saturated: 15 frames of one class outvote almost any
  error. None among {count} would still allow a rate of {least:.3f} (Clopper-Pearson, 95 %). Judge by
  the bags of {BAG} frames.{measured}
- **Two answers.** One source, white light, colitis against clean normal colon. No Crohn's disease, no other
  disease and no poor preparation was seen; the model will give one of its two answers to anything."""


def describe(manifest: Mapping[str, Any]) -> str:
    """Return the card, in Markdown."""
    metrics, trained = manifest["metrics"], manifest["training_data"]
    change = metrics["int8_less_float"]
    certified = metrics["selective"]["certified"]
    bounds = "; ".join(each["says"] for each in certified["each_seed"])
    gains = {name: f"{change[name]['value']:+.4f} ({change[name]['lower']:+.4f})" for name in ("auc", "mcc")}
    quantised, shown, simulated = manifest["quantisation"], tables(metrics), metrics["simulated"]
    return f"""# {manifest["name"]} {manifest["version"]}

Research use only. Not a medical device; its output is not a diagnosis.

## What the numbers cannot say

{caveats(metrics)}

## Intended use

To exercise a node from end to end, and as the baseline that a later model is compared with: frames of
colonoscopy, cleaned and cropped by the recipe that `model.json` names. `healthy` means that no IBD pattern
was found; other findings are not assessed.

## How it was made

`make reference-model`. MobileNetV2 1.0/224 as published by Google (ImageNet, Apache-2.0); its stages after
the {trained["trained_from_stage"]}th and a new head were trained for {trained["epochs"]} epochs on
HyperKvasir (Borgli et al., Scientific Data 7:283, 2020; CC BY 4.0, permission asked for commercial use: here
research only). Quantised to 8 bits ({quantised["method"]}, ranges by {quantised["rule"]}) on
{quantised["frames"]} training frames; the head stays in float. Temperature, decision offset, t and k were
fitted after quantisation, on frames out of fold. `{trained["frames"]}` has the SHA-256 of each frame it has
learnt from.

A frame whose colours are rarer than those of 95 % of left-out training frames does not vote
{_foreign(metrics)}. That judges colour alone: another maker's white balance may be foreign, another
finding in usual colours is not.

## Figures

{metrics["protocol"]}.

{shown["frames"]}

{shown["seeds"]}

{shown["kinds"]}

{shown["against"]}

int8 less float, each calibrated by itself, with its one-sided 95 % bound: AUC {gains["auc"]}, MCC
{gains["mcc"]}; mean absolute change of the probability {change["mean_absolute_change"]:.4f}, largest
{change["largest_change"]:.4f}; of each seed's frames
{", ".join(map(str, change["flipped_of_each_seed"]))} change sides.

{shown["patients"]}

A scene's near-duplicates vote once under the rule. Abstaining, bags of {BAG} read by the plain mean: AUGRC
{text(metrics["selective"]["augrc"])}. Errors that are certified of whole pseudo-patients, with
{certified["confidence"]:.0%} confidence, seed by seed: {bounds}. Below
{certified["least_certifiable"]:.1%} nothing is certifiable with {metrics["patients"]} patients.

MCC of {simulated["patients"]} simulated patients of {simulated["frames"]} frames, every other one with
lesions on the share of frames shown, errors of one patient's frames correlated; the rule at
t = {simulated["threshold"]}, k = {simulated["top_k"]}.

{shown["simulated"]}
"""


def _foreign(metrics: Mapping[str, Any]) -> str:
    sets = {name: found for name, found in metrics.get("foreign", {}).items() if name != "known"}
    if not sets:
        return "(not measured on frames of other kinds)"
    shares = (f"{each['rejected']['value']:.0%} of {each['frames']} {name}" for name, each in sets.items())
    return f"(rejected so: {', '.join(shares)} frames)"


def _frames(bag: str) -> str:
    return "all frames" if bag == "all" else f"{bag} frame{'' if bag == '1' else 's'}"
