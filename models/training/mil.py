"""Readings of a patient from all frames at once: attention that learns which count, beside mean and max.

Frames that were dealt into patients of one class cannot rank these: every frame shows the patient's class.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.calibration import fit_calibration
from models.counts import Flags, Floats
from models.figures import Readings, bootstrap, reading_statistic, summarise
from models.grid import average_bags, draw_bags, largest_of_bags
from models.outcome import BAG
from models.patient import DECISION, calibrate
from models.training.fit import Batch, Schedule, fit
from models.training.quantising import margin, read_int8
from models.training.run import INNER, Fit, Frames, Plan

Patients = NDArray[np.int64]

HIDDEN = 64
RATE = 1e-3
SCHEDULE = Schedule(epochs=30)
BATCH = 32
"""Bags."""

LARGEST, DECAY = 3, 10.0
"""Frames of a training bag, and AdamW's decay. MCC of bags of 1, 3 and 5 frames, out of fold on the 74
pseudo-patients, ImageNet embeddings (the mean of a logistic line: 0.880, 0.979, 0.988): 0.842, 0.980, 0.995;
with bags of up to 8 frames 0.790, 0.964, 0.969; decay 3 and 20 epochs 0.841, 0.969, 0.981, decay 30 0.831,
0.975, 0.994. Chosen with the scored folds in sight: no more than a hint which rule is better.
"""


class GatedAttention(nn.Module):  # type: ignore[misc]  # torch is untyped here
    """Attention-weighted mean of a patient's embeddings and a line on it (Ilse et al. 2018, eq. 7 to 9).

    Parameters
    ----------
    mean, spread
        ``(d,)``, of the training frames: embeddings are standardised first.
    """

    def __init__(self, mean: Tensor, spread: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("spread", spread)
        self.value, self.gate = nn.Linear(len(mean), HIDDEN), nn.Linear(len(mean), HIDDEN)
        self.weight, self.line = nn.Linear(HIDDEN, 1, bias=False), nn.Linear(len(mean), 1)

    def forward(self, bags: Tensor) -> Tensor:
        """Return ``(patients,)`` margins of ``(patients, frames, 1 + d)`` from `make_bags`."""
        here = bags[..., 0] > 0
        frames = (bags[..., 1:] - self.mean) / self.spread
        scores = self.weight(torch.tanh(self.value(frames)) * torch.sigmoid(self.gate(frames))).squeeze(2)
        shares = torch.softmax(scores.masked_fill(~here, -torch.inf), dim=1)
        return self.line((shares.unsqueeze(2) * frames).sum(dim=1)).squeeze(1)


def make_bags(embeddings: NDArray[np.floating], patients: Patients) -> Tensor:
    """Return ``(patients, frames, 1 + d)`` float32: 1 and the embedding for a frame, zeros for none."""
    marked = torch.from_numpy(np.insert(embeddings.astype(np.float32), 0, 1, axis=1))
    return nn.utils.rnn.pad_sequence(
        [marked[patients == each] for each in range(patients.max() + 1)], batch_first=True
    )


def fit_attention(
    embeddings: NDArray[np.floating],
    labels: Flags,
    patients: Patients,
    *,
    schedule: Schedule = SCHEDULE,
) -> GatedAttention:
    """Train a head on ``(N, d)`` embeddings of patients with ``(patients,)`` labels, the same every time.

    An epoch cuts every patient's frames, shuffled, into bags of one size from 1 to `LARGEST`.
    """
    frames = torch.from_numpy(embeddings.astype(np.float32))

    def load(epoch: int) -> Iterator[Batch]:
        generator = np.random.default_rng((schedule.seed, epoch))
        order = generator.permutation(len(patients))
        order = order[np.argsort(patients[order], kind="stable")]
        ordered = patients[order]
        place = np.arange(len(order)) - np.searchsorted(ordered, ordered)
        size = generator.integers(1, LARGEST + 1)
        _, first, bag = np.unique(
            ordered * len(order) + place // size, return_index=True, return_inverse=True
        )
        bags = make_bags(embeddings[order], bag)
        targets = torch.from_numpy(labels[ordered[first]].astype(np.float32))
        for places in np.array_split(generator.permutation(len(bags)), -(-len(bags) // BATCH)):
            yield Batch(bags[places], targets[places])

    with torch.random.fork_rng():
        torch.manual_seed(schedule.seed)
        head = GatedAttention(frames.mean(dim=0), frames.std(dim=0).clamp(min=1e-6))
        optimiser = torch.optim.AdamW(head.parameters(), lr=RATE, weight_decay=DECAY)
        fit(head, load, objective=_loss, optimiser=optimiser, schedule=schedule)
    head.eval()
    return head


def _loss(head: nn.Module, batch: Batch) -> Tensor:
    return functional.binary_cross_entropy_with_logits(head(batch.inputs), batch.targets)


def read_attention(head: GatedAttention, embeddings: NDArray[np.floating], patients: Patients) -> Floats:
    """Return ``(patients,)`` margins of IBD over healthy."""
    with torch.no_grad():
        margins: Floats = head(make_bags(embeddings, patients)).double().numpy()
    return margins


def compare_rules(run: Path, plan: Plan, frames: Frames) -> dict[str, Any]:
    """Return the patients' measures by mean, max and attention, on the same bags of frames out of fold.

    A fold's frames are read by the 8-bit network that chose its epoch without them, and attention learns from
    that network's choosing fold: embeddings of frames that it never learnt from either. Those of its training
    frames are better than any later frame's will be. So attention has one fold to learn from, where the head
    that mean and max go by has learnt from the rest; temperature and offset are of the choosing fold.
    """
    firsts, patients = np.unique(
        [row.patient for row in frames.rows], return_index=True, return_inverse=True
    )[1:]
    labels, bags = frames.labels == 1, draw_bags(patients, BAG)
    found: dict[str, Readings] = {
        rule: np.zeros((len(plan.seeds), *bags.shape[:2]), np.int8) for rule in ("mean", "max", "attention")
    }
    for place, seed in enumerate(plan.seeds):
        for fold in range(int(frames.folds.max()) + 1):
            network = Fit(fold, seed, INNER)
            asked, learns = frames.folds == fold, network.scores(frames.folds)
            shown = asked | learns
            read = read_int8(onnx.load(run / "models" / f"{network.name}.onnx"), frames.views[shown])
            margins = np.zeros(len(labels))
            margins[shown] = margin(read["logits"])
            embeddings = np.zeros((len(labels), read["embedding"].shape[1]), np.float32)
            embeddings[shown] = read["embedding"]
            temperature, offset = fit_calibration(margins[learns], labels[learns])
            probabilities = calibrate(margins, temperature=temperature, offset=offset)
            scored = np.unique(patients[asked])
            drawn = bags[:, scored]
            known, of_known = np.unique(patients[learns], return_inverse=True)
            head = fit_attention(embeddings[learns], labels[firsts][known], of_known)
            numbers = np.broadcast_to(np.arange(drawn[..., 0].size).reshape(*drawn.shape[:2], 1), drawn.shape)
            held = drawn >= 0
            by_attention = read_attention(head, embeddings[drawn[held]], numbers[held])
            found["mean"][place][:, scored] = average_bags(probabilities, drawn) >= DECISION
            found["max"][place][:, scored] = largest_of_bags(probabilities, drawn) >= DECISION
            found["attention"][place][:, scored] = by_attention.reshape(drawn.shape[:2]) >= 0
    of_rules = {}
    for rule, readings in found.items():
        statistic = reading_statistic(np.concatenate(readings), labels[firsts])
        estimates = bootstrap(statistic, len(firsts))
        of_rules[rule] = {name: summarise(estimates[name]) for name in ("mcc", "sensitivity", "specificity")}
    return of_rules
