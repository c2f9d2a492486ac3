"""A ResNet50 of our own, taught by the reference network: ``make resnet50-reference RUN=DIR``.

No published ResNet50 is in reach, so one is trained from nothing, at 96 pixels, on what the network of a
run's first fold says of every augmented view (Hinton et al. 2015, arXiv 1503.02531). It learns from three
folds; on the fourth its temperature and offset are fitted; the fifth, which neither it nor its teacher saw,
is scored: one fold, one seed, and no more than that. Beside the float network stand its 8-bit ones: all in
integers, and with what Datres et al. 2023 or the layers' sensitivity keep in float.

An interrupted training goes on after its last epoch. Weights stay in the run folder.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from models.calibration import fit_calibration
from models.run_folder import to_json, write_whole
from models.training.augment import augment
from models.training.fit import Batch, Epoch, Schedule, fit
from models.training.learner import normalise
from models.training.network import Network, resnet50_network
from models.training.quantising import margin
from models.training.run import INNER, OUTER, Fit
from models.training.train import load_network
from tests.studies.quant_cells import (
    HERE,
    RESNET50,
    RESNET50_SIDE,
    SEED,
    Cell,
    Study,
    measure,
    read_float,
    shrink,
    start,
)
from tests.studies.quant_study import gather, of_cells, order, say

FOLD, EPOCHS, BATCH = 0, 30, 16
RATE, WEIGHT_DECAY, TEMPERATURE = 1e-3, 0.01, 2.0
TIMED = 4
"""Batches on which a dry run measures what an epoch costs."""


class Lessons:
    """Batches of augmented views, small, with what the teacher says of them at full size."""

    def __init__(self, study: Study) -> None:
        learns = Fit(FOLD, SEED, INNER).learns(study.frames.folds)
        self.views = study.frames.views[learns]
        self.teacher = load_network(study.network, study.run / "models" / f"{Fit(FOLD, SEED, OUTER).name}.pt")

    def __len__(self) -> int:
        return len(self.views) // BATCH

    def load(self, epoch: int) -> Iterator[Batch]:
        """Return an epoch's batches; the last few frames of its order wait for another epoch."""
        generator = np.random.default_rng((SEED, epoch))
        order = generator.permutation(len(self.views))
        for rows in order[: len(self) * BATCH].reshape(-1, BATCH):
            shown = np.stack([augment(view, generator) for view in self.views[rows]])
            with torch.inference_mode():
                told = (self.teacher(normalise(shown)).logits / TEMPERATURE).softmax(1)
            yield Batch(normalise(shrink(shown, RESNET50_SIDE)), told.clone())


def objective(model: nn.Module, batch: Batch) -> Tensor:
    """Return the cross-entropy from the teacher's softened probabilities."""
    logits = model(batch.inputs).logits / TEMPERATURE
    return functional.cross_entropy(logits, batch.targets) * TEMPERATURE**2


def make_pupil() -> tuple[Network, torch.optim.Optimizer]:
    """Return a network that knows nothing."""
    torch.manual_seed(SEED)
    pupil = resnet50_network(2)
    return pupil, torch.optim.AdamW(pupil.parameters(), lr=RATE, weight_decay=WEIGHT_DECAY)


def estimate(lessons: Lessons) -> None:
    """Say how long training would take."""
    pupil, optimiser = make_pupil()
    batches = list(lessons.load(0))[:TIMED]  # also what teaching costs
    started = time.perf_counter()
    fit(pupil, lambda _: batches, objective=objective, optimiser=optimiser, schedule=Schedule(1))
    rate = TIMED * BATCH / (time.perf_counter() - started)
    say(f"{rate:.2f} images a second, {EPOCHS * len(lessons) * BATCH / rate / 60:.0f} minutes and teaching")


def train(study: Study, lessons: Lessons) -> None:
    """Train, and write weights and calibration into the run folder."""
    pupil, optimiser = make_pupil()
    started = time.perf_counter()

    def tell(epoch: Epoch) -> None:
        minutes = (time.perf_counter() - started) / 60
        say(f"epoch {epoch.number + 1} of {EPOCHS}, loss {epoch.loss:.4f}, {minutes:.1f} minutes")

    fit(
        pupil,
        lessons.load,
        objective=objective,
        optimiser=optimiser,
        schedule=Schedule(
            EPOCHS, lambda epoch: 0.5 * (1 + np.cos(np.pi * epoch / EPOCHS)), seed=SEED, largest_gradient=1.0
        ),
        callbacks=[tell],
        checkpoint=study.run / "resnet50-reference.part.pt",
    )
    chooses = Fit(FOLD, SEED, INNER).scores(study.frames.folds)
    known = margin(read_float(pupil, shrink(study.frames.views[chooses], RESNET50_SIDE)))
    temperature, offset = fit_calibration(known, study.frames.labels[chooses] == 1)
    fitted = {"temperature": temperature, "offset": offset}
    write_whole((study.run / RESNET50).with_suffix(".json"), to_json(fitted))
    partial = study.run / f"{RESNET50}.part"
    torch.save(pupil.state_dict(), partial)
    partial.replace(study.run / RESNET50)


def report(study: Study) -> dict[str, Any]:
    """Return what the network and its 8-bit ones make of the fold that none of them saw."""
    found = {}
    for method in ("float", "integers", "paper", "sensitive"):
        found[method] = measure(Cell(method, fold=FOLD, backbone="resnet50"))
        say(f"{method} read")
    reads = {method: gather(study, [line]) for method, line in found.items()}
    return {
        "what": "one fold, one seed; the weights are not published",
        "side": RESNET50_SIDE,
        "images_seen": EPOCHS * len(Lessons(study)) * BATCH,
        "data_digest": study.frames.digest,
        **{method: of_cells(study, each, reads["float"]) for method, each in reads.items()},
        "paper_over_integers": order(study, reads["paper"], reads["integers"]),
        "choices": found["sensitive"]["choices"],
    }


def main() -> None:
    """Train what is not trained yet, and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dry-run", action="store_true")
    arguments = parser.parse_args()
    start(arguments.run)
    torch.set_num_threads(arguments.threads)
    (study,) = HERE
    if arguments.dry_run:
        estimate(Lessons(study))
        return
    if not (study.run / RESNET50).exists():
        train(study, Lessons(study))
    write_whole(arguments.out, to_json(report(study)))


if __name__ == "__main__":
    main()
