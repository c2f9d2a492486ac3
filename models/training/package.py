"""``python -m models package``: a network learnt from all folds, quantised, and what a node needs to know."""

import hashlib
import io
import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime as ort
import torch
import typer
from pydantic import TypeAdapter

from models.card import describe
from models.dataset import CLASSES
from models.errors import ModelError
from models.evaluate import TRAINING_FRAMES
from models.ood import learn_rarity
from models.package import MANIFEST, MODEL
from models.run_folder import write_whole
from models.training.export import SCALE, ZERO_POINT
from models.training.foreign import choose_for_all
from models.training.learner import join, keep_freed_memory, read_frozen
from models.training.learner import train as learn
from models.training.quantising import OUTPUTS, Quantising
from models.training.quantize import to_int8
from models.training.run import OUTER, Frames, Plan, fits, load_frames, read_plan
from models.training.train import build
from pipeline.clean.crop import VIEW_SIDE
from pipeline.clean.recipe import DEFAULT

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

CARD, FRAMES, COLOURS = "MODEL_CARD.md", "frames.sha256", "colours.npy"

PROTOCOL = (
    "Out of fold, means of all seeds. The next fold chose the epoch, temperature, offset, t and k; each "
    "fold's network was quantised by itself, on its own training frames. 95 % intervals by bootstrap over "
    "patients. The network that ships has learnt from all folds: no figure here is of itself"
)


@app.command()
def package(
    *,
    run: Annotated[Path, typer.Option(metavar="DIR", help="Run folder that calibrate wrote to.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the package.")],
    name: Annotated[str, typer.Option(help="The package's name.")],
    version: Annotated[str, typer.Option(help="The package's version.")] = "1.0.0",
) -> None:
    """Train on every fold, quantise, and write model, card and manifest."""
    keep_freed_memory()
    plan = read_plan(run)
    frames = load_frames(plan, run)
    how = TypeAdapter(Quantising).validate_json(_read(run / "quantising.json"))
    figures, chosen = (json.loads(_read(run / f"{each}.json")) for each in ("figures", "calibration"))
    epochs = _usual_epochs(run, plan, frames)
    network = build(plan)
    tail = learn(
        network, read_frozen(network, frames.views, plan.settings), frames.labels, plan.settings,
        epochs=epochs, seed=plan.seeds[0], checkpoint=run / "models" / "all.part.pt",
    )  # fmt: skip
    whole = join(network, tail, plan.settings)
    torch.save(whole.state_dict(), run / "models" / "all.pt")
    every = np.ones(len(frames.rows), np.bool_)
    model = to_int8(whole, frames, every, how, seed=plan.seeds[0]).SerializeToString(deterministic=True)
    manifest: dict[str, Any] = {
        "format": 1,
        "task": "classification",
        "name": name,
        "version": version,
        "classes": list(CLASSES),
        "positive": "ibd",
        "input": {
            "rows": VIEW_SIDE, "columns": VIEW_SIDE, "layout": "NHWC", "dtype": "uint8", "colour": "RGB",
            "scale": SCALE, "zero_point": ZERO_POINT,
        },
        "outputs": list(OUTPUTS),
        "threshold": chosen["threshold"],
        "top_k": chosen["top_k"],
        "vote_mode": "probabilities",
        "calibration": {"temperature": chosen["temperature"], "offset": chosen["offset"]},
        "foreign": {"score": "colours", "file": COLOURS, "threshold": choose_for_all(frames)},
        "preprocessing": {"recipe_digest": DEFAULT.digest},
        "quantisation": {
            **TypeAdapter(Quantising).dump_python(how, mode="json"),
            "onnxruntime": ort.__version__, "torch": torch.__version__.partition("+")[0],
        },
        "training_data": {
            "name": f"{plan.dataset.name}, {len(frames.rows)} frames",
            "sha256": frames.digest,
            TRAINING_FRAMES: FRAMES,
            "weights_sha256": _digest(plan.weights.read_bytes()) if plan.weights else None,
            "backbone": plan.settings.backbone,
            "trained_from_stage": plan.settings.frozen,
            "epochs": epochs,
            "seeds": list(plan.seeds),
        },
        "metrics": {
            "protocol": PROTOCOL,
            "t_and_k_tied": chosen["tied"], **figures,
        },
    }  # fmt: skip
    rarities = io.BytesIO()
    np.save(rarities, learn_rarity(frames.views))
    files = {
        MODEL: model,
        COLOURS: rarities.getvalue(),
        CARD: describe(manifest).encode(),
        FRAMES: "".join(f"{row.sha256}\n" for row in frames.rows).encode(),
    }
    manifest["files"] = {file: _digest(content) for file, content in files.items()}
    out.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        (out / file).write_bytes(content)
    write_whole(out / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def _usual_epochs(run: Path, plan: Plan, frames: Frames) -> int:
    """Return the median of the epochs that the inner folds chose."""
    names = [each.name for each in fits(plan, frames) if each.part != OUTER]
    chosen = [json.loads(_read(run / "models" / f"{each}.json"))["chosen"] for each in names]
    return int(np.median(chosen))


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ModelError(
            f"{file}: what an earlier verb writes was expected, nothing is there; "
            "run train, quantize and calibrate first"
        ) from error


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
