"""From a trained network to its twin on a grid: after training alone, or with a little training more."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn import functional

from models.errors import ModelError
from models.training.augment import augment
from models.training.fit import Batch, Schedule, fit
from models.training.learner import READ, normalise
from models.training.network import Network
from models.training.ptq import correct_bias
from models.training.quantisers.affine import Quantiser, UniformConfig, UniformQuantiser
from models.training.quantisers.lsq import LsqQuantiser, step_group
from models.training.quantisers.observers import entropy, least_squares, min_max, percentile
from models.training.quantisers.pact import PactQuantiser, clip_group, clip_penalty
from models.training.twin import build_twin, calibrate, is_quantised, layer_names

RULES = {"min_max": min_max, "percentile": percentile, "least_squares": least_squares, "entropy": entropy}
ACTIVATIONS: dict[str, Callable[[UniformConfig], Quantiser]] = {
    "ptq": UniformQuantiser,
    "qat": UniformQuantiser,
    "pact": PactQuantiser,
    "lsq": partial(LsqQuantiser, starts_at_range=True),
}
OUTPUTS = ("logits", "cam", "embedding")

CORRECTED_ON = 32
"""Frames of the calibration set on which biases are corrected: one pass over them a layer."""


@dataclass(frozen=True, slots=True)
class Quantising:
    """How a network is quantised.

    Attributes
    ----------
    method
        ``ptq``: after training alone. ``qat``: then trained with its ranges frozen (Datres et al. 2023).
        ``pact``: activations' clips are learnt. ``lsq``: all steps are learnt.
    rule
        Chooses ranges from the calibration frames.
    corrects_bias
        Whether each channel's mean is brought back to the float network's.
    keep_float
        Layers that stay in float.
    frames, draw
        Training frames that calibrate, and which set of them.
    epochs, rate, learnt_rate
        Of the training after calibration; of the weights, and of clips or steps.
    penalty
        Of PACT, on the squares of its clips.
    """

    method: str = "ptq"
    weight_bits: int = 8
    activation_bits: int = 8
    rule: str = "min_max"
    corrects_bias: bool = False
    keep_float: tuple[str, ...] = ("head",)
    frames: int = 128
    draw: int = 0
    epochs: int = 2
    rate: float = 2e-5
    learnt_rate: float = 1e-4
    penalty: float = 2e-4

    def __post_init__(self) -> None:
        """Check the words."""
        for name, found, known in (("method", self.method, ACTIVATIONS), ("rule", self.rule, RULES)):
            if found not in known:
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
    rule, make = RULES[how.rule], ACTIVATIONS[how.method]
    weights = UniformConfig(bits=how.weight_bits, symmetric=True, axis=0, rule=rule)
    tensors = UniformConfig(bits=how.activation_bits, rule=rule)
    weight = ACTIVATIONS["lsq"] if how.method == "lsq" else UniformQuantiser
    twin = build_twin(
        network, weight=partial(weight, weights), activation=partial(make, tensors), keep_float=how.keep_float
    )
    drawn = np.random.default_rng((0, how.draw)).permutation(len(views))[: how.frames]
    calibrate(twin, _batches(views[drawn]))
    if how.corrects_bias:
        _correct_biases(twin, network, views[drawn[:CORRECTED_ON]], how)
    if how.method != "ptq":
        _train(twin, views, labels, how, seed=seed)
    twin.eval()
    return twin


def read_int8(model: onnx.ModelProto, views: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    """Return what an exported graph gives for ``(N, side, side, 3)`` views, but for its maps; one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs() if each.name != "cam"]
    given = session.get_inputs()[0].name
    found = [session.run(names, {given: views[at : at + READ]}) for at in range(0, len(views), READ)]
    return {name: np.concatenate(parts) for name, parts in zip(names, zip(*found, strict=True), strict=True)}


def read_twin(twin: nn.Module, views: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the ``(N, classes)`` logits of a twin or a network."""
    with torch.inference_mode():
        return np.concatenate([twin(batch)[0].numpy() for batch in _batches(views)])


def margin(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return ``(N,)``: the second class's logit less the first's."""
    return np.asarray(logits[:, 1].astype(np.float64) - logits[:, 0])


def _batches(views: NDArray[np.uint8]) -> Iterator[Tensor]:
    return (normalise(views[at : at + READ]) for at in range(0, len(views), READ))


def _train(
    twin: fx.GraphModule, views: NDArray[np.uint8], labels: NDArray[np.int64], how: Quantising, *, seed: int
) -> None:
    """Train the weights straight through, and with them the clips or steps."""
    groups = {
        "qat": [],
        "pact": [clip_group(twin, rate=how.learnt_rate)],
        "lsq": [step_group(twin, rate=how.learnt_rate)],
    }
    learnt = {id(each) for group in groups[how.method] for each in group["params"]}
    rest = [each for each in twin.parameters() if id(each) not in learnt]
    optimiser = torch.optim.Adam([{"params": rest, "lr": how.rate}, *groups[how.method]])

    def load(epoch: int) -> Iterator[Batch]:
        generator = np.random.default_rng((seed, epoch))
        order = generator.permutation(len(views))
        for at in range(0, len(order), READ):
            rows = order[at : at + READ]
            shown = normalise(np.stack([augment(view, generator) for view in views[rows]]))
            yield Batch(shown, torch.from_numpy(labels[rows]))

    def objective(model: nn.Module, batch: Batch) -> Tensor:
        loss = functional.cross_entropy(model(batch.inputs)[0], batch.targets)
        return loss + clip_penalty(model, strength=how.penalty) if how.method == "pact" else loss

    schedule = Schedule(how.epochs, seed=seed, largest_gradient=1.0)
    fit(twin, load, objective=objective, optimiser=optimiser, schedule=schedule)


def _correct_biases(
    twin: fx.GraphModule, network: Network, views: NDArray[np.uint8], how: Quantising
) -> None:
    """Correct each layer's bias in the order they run, on what the layers before it, corrected, make."""
    exact = build_twin(network, weight=Quantiser, activation=nn.Identity, keep_float=layer_names(network))
    for name in layer_names(twin):
        layer = twin.get_submodule(name)
        if is_quantised(layer) and layer.bias is not None and name not in how.keep_float:
            inputs = _passing(twin, layer, views)[0]
            targets = _passing(exact, exact.get_submodule(name), views)[1]
            correct_bias(layer, inputs, targets=targets)


def _passing(model: nn.Module, layer: nn.Module, views: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """Return what a layer takes and gives."""
    seen: list[tuple[Tensor, Tensor]] = []
    handle = layer.register_forward_hook(lambda _, given, made: seen.append((given[0], made)))
    with torch.no_grad():
        for batch in _batches(views):
            model(batch)
    handle.remove()
    return torch.cat([given for given, _ in seen]), torch.cat([made for _, made in seen])
