"""The training loop: what a run learns is decided by its arguments alone, and a broken number stops it."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the extra `train` (torch) is needed to train")

import torch

from models.training.fit import Batch, Epoch, Schedule, TrainingError, fit

SCHEDULE = Schedule(epochs=4, rate=lambda epoch: 1 - epoch / 4, seed=5)


class StoppedError(Exception):
    """The power went."""


def build() -> torch.nn.Module:
    """Return a network with every kind of state: weights, running means, drop-out."""
    torch.manual_seed(0)
    layers = torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1)
    return torch.nn.Sequential(*layers)


def load(epoch: int) -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(epoch)
    for _ in range(3):
        inputs = torch.randn(16, 6, generator=generator)
        yield Batch(inputs, inputs.sum(dim=1, keepdim=True))


def squared(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    return ((model(batch.inputs) - batch.targets) ** 2).mean()


def adam(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-2)


def assert_same(one: torch.nn.Module, other: torch.nn.Module) -> None:
    for name, values in one.state_dict().items():
        assert torch.equal(values, other.state_dict()[name]), name


def test_a_run_that_was_cut_off_ends_with_the_weights_of_one_that_was_not(tmp_path: Path) -> None:
    """Half an hour of training must survive a reboot, and nobody may have to say which run it was."""
    whole, cut, resumed = build(), build(), build()
    fit(whole, load, objective=squared, optimiser=adam(whole), schedule=SCHEDULE)

    def stop(epoch: Epoch) -> None:
        if epoch.number == 2:
            raise StoppedError

    file = tmp_path / "checkpoint"
    with pytest.raises(StoppedError):
        fit(
            cut, load, objective=squared, optimiser=adam(cut),
            schedule=SCHEDULE, callbacks=[stop], checkpoint=file,
        )  # fmt: skip
    told: list[Epoch] = []
    fit(
        resumed, load, objective=squared, optimiser=adam(resumed),
        schedule=SCHEDULE, callbacks=[told.append], checkpoint=file,
    )  # fmt: skip
    assert [epoch.number for epoch in told] == [2, 3]
    assert_same(whole, resumed)
    assert not torch.equal(whole[0].weight, cut[0].weight)


def test_another_seed_gives_other_weights() -> None:
    """Drop-out must follow the seed; a seed that changes nothing would make the test above empty."""
    one, other = build(), build()
    fit(one, load, objective=squared, optimiser=adam(one), schedule=Schedule(2, seed=1))
    fit(other, load, objective=squared, optimiser=adam(other), schedule=Schedule(2, seed=7))
    assert not torch.equal(one[0].weight, other[0].weight)


def test_a_loss_that_is_no_number_stops_with_the_digests_of_its_batch_and_is_not_learnt() -> None:
    """The batch must be found again, by a name that tells nothing of whom it shows."""
    model = torch.nn.Linear(6, 1)
    before = {name: values.clone() for name, values in model.state_dict().items()}
    broken = Batch(torch.ones(2, 6), torch.full((2, 1), float("nan")))
    digest = hashlib.sha256(torch.ones(6).numpy().tobytes()).hexdigest()
    with pytest.raises(TrainingError, match=f"nan was found.*{digest}, {digest}"):
        fit(model, lambda _: [broken], objective=squared, optimiser=adam(model), schedule=Schedule(1))
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())


def test_each_parameter_group_keeps_its_own_rate() -> None:
    """Scales of a quantiser and weights of a layer do not learn at one speed."""
    model = build()
    groups = [
        {"params": model[0].parameters(), "lr": 1e-2},
        {"params": model[3].parameters(), "lr": 1e-4, "weight_decay": 0.0},
    ]
    optimiser = torch.optim.SGD(groups)
    fit(
        model, load, objective=squared, optimiser=optimiser, schedule=Schedule(2, lambda epoch: 1 - epoch / 2)
    )
    assert [group["lr"] for group in optimiser.param_groups] == [0.5e-2, 0.5e-4]


@pytest.mark.parametrize("change", ["seed", "network"])
def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path, change: str) -> None:
    """To go on from it would give weights that nothing describes."""
    model = build()
    file = tmp_path / "checkpoint"
    fit(model, load, objective=squared, optimiser=adam(model), schedule=Schedule(1), checkpoint=file)
    other = torch.nn.Sequential(torch.nn.Linear(6, 1)) if change == "network" else model
    schedule = Schedule(2, seed=1 if change == "seed" else 0)
    with pytest.raises(TrainingError, match="was expected"):
        fit(other, load, objective=squared, optimiser=adam(other), schedule=schedule, checkpoint=file)


def test_an_empty_epoch_is_an_error() -> None:
    """A loader that found no frames must not give an untrained network."""
    model = build()
    with pytest.raises(TrainingError, match="at least one batch"):
        fit(model, lambda _: [], objective=squared, optimiser=adam(model), schedule=Schedule(1))
