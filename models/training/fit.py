"""One training loop for every network: seeded, resumable to the bit, stopped by a loss that is no number."""

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from models.errors import ModelError


class TrainingError(ModelError):
    """Training cannot go on: a loss is no number, or a checkpoint is of another training."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What one step learns from; the first axis of both tensors is the example."""

    inputs: Tensor
    targets: Tensor

    def digests(self) -> list[str]:
        """Return the SHA-256 of each example's input, which names it and no patient."""
        return [hashlib.sha256(each.contiguous().numpy().tobytes()).hexdigest() for each in self.inputs]


@dataclass(frozen=True, slots=True)
class Epoch:
    """What a callback is told: the epoch's number from 0, and the mean of its losses."""

    number: int
    loss: float


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long to train, and how fast.

    Attributes
    ----------
    rate
        Epoch's number -> factor on every parameter group's own learning rate.
    largest_gradient
        Norm that all gradients together are cut to. MobileNetV2 without batch norm, trained from its 14th
        block at 1e-3, fell to chance in the fourth epoch of the first fold without.
    """

    epochs: int
    rate: Callable[[int], float] = lambda _: 1.0
    seed: int = 0
    largest_gradient: float = math.inf


Loader = Callable[[int], Iterable[Batch]]
Objective = Callable[[nn.Module, Batch], Tensor]
Callback = Callable[[Epoch], None]


def fit(
    model: nn.Module,
    loader: Loader,
    *,
    objective: Objective,
    optimiser: torch.optim.Optimizer,
    schedule: Schedule,
    callbacks: Sequence[Callback] = (),
    checkpoint: Path | None = None,
) -> None:
    """Train `model` in place.

    The same arguments on the same machine and number of threads give the same weights, in one go or resumed:
    every epoch seeds torch anew, and the loader must be a function of the epoch's number alone.

    Parameters
    ----------
    loader
        Epoch number -> that epoch's batches.
    objective
        Network and batch -> the scalar to be made small; it runs the network as it likes.
    optimiser
        Over `model`'s parameters, in groups with a learning rate and settings each.
    callbacks
        Called in order after every epoch, before its checkpoint: what they change of the model is kept.
    checkpoint
        Written after every epoch; where it exists, training goes on from it.

    Raises
    ------
    TrainingError
        A loss is not finite (nothing of its batch is learnt), or the checkpoint is of another training.
    """
    torch.use_deterministic_algorithms(mode=True)
    initial_rates = [group["lr"] for group in optimiser.param_groups]
    start = 0
    if checkpoint is not None and checkpoint.exists():
        start = _resume(checkpoint, model, optimiser, schedule.seed)
    for number in range(start, schedule.epochs):
        torch.manual_seed(schedule.seed + number)
        for group, initial in zip(optimiser.param_groups, initial_rates, strict=True):
            group["lr"] = initial * schedule.rate(number)
        model.train()
        losses = [_step(model, batch, objective, optimiser, schedule) for batch in loader(number)]
        if not losses:
            raise TrainingError(
                f"epoch {number}: at least one batch was expected, none was found; mend the loader"
            )
        for callback in callbacks:
            callback(Epoch(number, math.fsum(losses) / len(losses)))
        if checkpoint is not None:
            _save(checkpoint, model, optimiser, seed=schedule.seed, done=number + 1)


def _step(
    model: nn.Module,
    batch: Batch,
    objective: Objective,
    optimiser: torch.optim.Optimizer,
    schedule: Schedule,
) -> float:
    optimiser.zero_grad(set_to_none=True)
    loss = objective(model, batch)
    value = float(loss.item())
    if not math.isfinite(value):
        raise TrainingError(
            f"training: a finite loss was expected, {value} was found; look at the inputs with SHA-256 "
            + ", ".join(batch.digests())
        )
    loss.backward()
    if math.isfinite(schedule.largest_gradient):
        nn.utils.clip_grad_norm_(model.parameters(), schedule.largest_gradient)
    optimiser.step()
    return value


def _save(file: Path, model: nn.Module, optimiser: torch.optim.Optimizer, *, seed: int, done: int) -> None:
    state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "seed": seed, "done": done}
    partial = file.with_name(file.name + ".part")
    torch.save(state, partial)
    partial.replace(file)  # an interrupted write leaves the last whole one


def _resume(file: Path, model: nn.Module, optimiser: torch.optim.Optimizer, seed: int) -> int:
    """Load the checkpoint and return the number of epochs done."""
    state = torch.load(file, weights_only=True)
    if state["seed"] != seed:
        raise TrainingError(f"{file}: seed {seed} was expected, {state['seed']} was found; remove the file")
    try:
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
    except (RuntimeError, ValueError) as error:
        raise TrainingError(
            f"{file}: a checkpoint of this network was expected: {error}; remove it"
        ) from error
    return int(state["done"])
