"""From a trained network to its twin on a grid: after training alone, or with a little training more."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from models.errors import ModelError
from models.training.fit import Schedule
from models.training.kernels import Kernels
from models.training.learner import READ, normalise
from models.training.network import Network
from models.training.qat import open_int8, train_twin
from models.training.quantisers.affine import Quantiser, UniformConfig, UniformQuantiser
from models.training.quantisers.lsq import LsqQuantiser, step_group
from models.training.quantisers.observers import entropy, least_squares, min_max, percentile
from models.training.quantisers.pact import PactQuantiser, clip_group
from models.training.repair import Repair, channel_means, equalise_all
from models.training.sensitivity import Damage, choose_float, damage, rank_layers, read
from models.training.twin import build_twin, calibrate, fold, layer_names, paper_choice

RULES = {"min_max": min_max, "percentile": percentile, "least_squares": least_squares, "entropy": entropy}
ACTIVATIONS: dict[str, Callable[[UniformConfig], Quantiser]] = {
    "ptq": UniformQuantiser,
    "qat": UniformQuantiser,
    "pact": PactQuantiser,
    "lsq": partial(LsqQuantiser, starts_at_range=True),
}
LEARNT: dict[str, Callable[..., dict[str, Any]] | None] = {"qat": None, "pact": clip_group, "lsq": step_group}
"""What gives the optimiser's group of what a method learns beside weights."""

ROUNDINGS = ("nearest", "adaptive")
OUTPUTS = ("logits", "cam", "embedding")

SPARED = ("choice", "layers", "sqnr_db", "divergence")
"""Columns of what `spare` reports."""

CORRECTED_ON, ROUNDED_ON = 32, 256
"""Frames on which biases are corrected, and on which roundings are chosen."""

RANKED_ON = 16
"""Frames on which layers are ranked: each is quantised alone."""


@dataclass(frozen=True, slots=True)
class Quantising:
    """How a network is quantised.

    Attributes
    ----------
    method
        ``ptq``: after training alone. ``qat``: then trained with its ranges frozen (Datres et al. 2023).
        ``pact``: activations' clips are learnt. ``lsq``: all steps are learnt.
    rule
        Chooses ranges from the calibration frames; those that `lsq` starts from are always of least squares.
    rounding
        Of weights: to the ``nearest``, or ``adaptive``, as a layer's output asks for (AdaRound).
    iterations
        Of adaptive rounding, a layer.
    equalises
        Whether channels are first rescaled between layers (Nagel et al. 2019). Where a ReLU6 then ends at
        another value a channel, the twin is simulated only.
    corrects_bias
        Whether each channel's mean is brought back to the float network's.
    keep_float
        Layers that stay in float.
    budget
        To which share of its divergence from the float network (`models.training.sensitivity`) a twin is
        brought by keeping further layers in float, those that bear rounding least; None: not at all.
    frames, draw
        Training frames that calibrate, and which set of them.
    epochs, rate, learnt_rate
        Of the training after calibration; of the weights, and of clips or steps.
    trained_from
        First stage of the trunk that this training changes; those before stay as calibrated, and are run in
        integers.
    penalty
        Of PACT, on the squares of its clips.
    """

    method: str = "ptq"
    weight_bits: int = 8
    activation_bits: int = 8
    rule: str = "min_max"
    rounding: str = "nearest"
    iterations: int = 1000
    equalises: bool = False
    corrects_bias: bool = False
    keep_float: tuple[str, ...] = ("head",)
    budget: float | None = None
    frames: int = 128
    draw: int = 0
    epochs: int = 2
    rate: float = 2e-5
    learnt_rate: float = 1e-4
    trained_from: int = 0
    penalty: float = 2e-4

    def __post_init__(self) -> None:
        """Check the words."""
        words = (("method", ACTIVATIONS), ("rule", RULES), ("rounding", ROUNDINGS))
        for name, known in words:
            if (found := getattr(self, name)) not in known:
                raise ModelError(f"{name}: one of {', '.join(known)} was expected, {found!r} was found")


def quantise(
    network: Network,
    views: NDArray[np.uint8],
    labels: NDArray[np.int64],
    how: Quantising,
    *,
    seed: int = 0,
) -> fx.GraphModule:
    """Return the twin of a network; `network` stays as it is.

    Parameters
    ----------
    views, labels
        ``(N, side, side, 3)`` uint8 and ``(N,)``: frames the network has learnt from.
    """
    if how.budget is not None:
        how, _ = spare(network, views, how)
    exact = fold(network)
    if how.equalises:
        equalise_all(exact)
    drawn = _drawn(views, how)
    twin = _calibrated(exact, views[drawn[: how.frames]], how)
    if how.corrects_bias or how.rounding == "adaptive":
        names = [name for name in layer_names(twin) if how.corrects_bias and name not in how.keep_float]
        means = channel_means(exact, _batches(views[drawn[:CORRECTED_ON]]), names)
        iterations = how.iterations if how.rounding == "adaptive" else 0
        shown = normalise(views[drawn[: ROUNDED_ON if iterations else CORRECTED_ON]])
        Repair(twin, exact, means=means, iterations=iterations, seed=seed).run(shown)
    if how.method != "ptq":
        group = LEARNT[how.method]
        train_twin(
            twin, views, labels, learnt=partial(group, rate=how.learnt_rate) if group else None,
            schedule=Schedule(how.epochs, seed=seed, largest_gradient=1.0), rate=how.rate,
            penalty=how.penalty if how.method == "pact" else 0.0, trained_from=how.trained_from,
        )  # fmt: skip
    twin.eval()
    return twin


def spare(
    network: Network, views: NDArray[np.uint8], how: Quantising
) -> tuple[Quantising, list[tuple[str, str, float, float]]]:
    """Return `how` with the layers that `how.budget` keeps in float, and rows of `SPARED`.

    The rows: all in integers but what `how.keep_float` names, the paper's choice beside it, and the layers
    chosen; each with what it does to the logits of frames that calibrate.
    """
    names, shown = layer_names(network), views[_drawn(views, how)]
    batches = list(_batches(shown[:CORRECTED_ON]))
    expected = read(network, batches)

    def make(kept: Collection[str], *, on: int = RANKED_ON) -> nn.Module:
        return _calibrated(network, shown[:on], replace(how, keep_float=tuple(kept)))

    def cost(kept: Collection[str], *, on: int = RANKED_ON) -> Damage:
        return damage(read(make(kept, on=on), batches), expected)

    ranking = rank_layers(network, make, batches=batches[: RANKED_ON // READ], keep_float=how.keep_float)
    budget = (how.budget or 0.0) * cost(how.keep_float).divergence
    chosen, _ = choose_float(network, make, batches=batches, ranking=ranking, budget=budget)
    kept = {
        "integers": how.keep_float,
        "paper": {*paper_choice(network), *how.keep_float},
        "sensitive": chosen,
    }
    choices = {choice: tuple(name for name in names if name in of_it) for choice, of_it in kept.items()}
    done = {choice: cost(of_it, on=how.frames) for choice, of_it in choices.items()}
    rows = [
        (choice, " ".join(choices[choice]), round(each.sqnr_db, 2), float(f"{each.divergence:.4g}"))
        for choice, each in done.items()
    ]
    return replace(how, keep_float=choices["sensitive"], budget=None), rows


def _drawn(views: NDArray[np.uint8], how: Quantising) -> NDArray[np.int64]:
    """Return the places of all views, those that calibrate first."""
    return np.random.default_rng((0, how.draw)).permutation(len(views))


def _calibrated(network: nn.Module, views: NDArray[np.uint8], how: Quantising) -> fx.GraphModule:
    learnt = how.method == "lsq"
    rule, make = least_squares if learnt else RULES[how.rule], ACTIVATIONS[how.method]
    weights = UniformConfig(bits=how.weight_bits, symmetric=True, axis=0, rule=rule)
    tensors = UniformConfig(bits=how.activation_bits, rule=rule)
    weight = make if learnt else UniformQuantiser
    twin = build_twin(
        network, weight=partial(weight, weights), activation=partial(make, tensors), keep_float=how.keep_float
    )
    calibrate(twin, _batches(views))
    return twin


def read_int8(model: onnx.ModelProto, views: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    """Return what an exported graph gives for ``(N, side, side, 3)`` views, but for its maps; one thread."""
    session = open_int8(model)
    names = [each.name for each in session.get_outputs() if each.name != "cam"]
    given = session.get_inputs()[0].name
    found = [session.run(names, {given: views[at : at + READ]}) for at in range(0, len(views), READ)]
    return {name: np.concatenate(parts) for name, parts in zip(names, zip(*found, strict=True), strict=True)}


def read_twin(twin: fx.GraphModule, views: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the ``(N, classes)`` logits of a twin, as integers of its widths give them."""
    kernels = Kernels(twin)
    return np.concatenate([kernels.run(batch)[0].numpy() for batch in _batches(views)])


def margin(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return ``(N,)``: the second class's logit less the first's."""
    return np.asarray(logits[:, 1].astype(np.float64) - logits[:, 0])


def _batches(views: NDArray[np.uint8]) -> Iterator[Tensor]:
    return (normalise(views[at : at + READ]) for at in range(0, len(views), READ))
