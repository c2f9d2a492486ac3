"""Train a calibrated twin straight through: its weights and, if they are learnt, its clips or steps."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn import functional

from models.training.augment import augment
from models.training.export import export_twin
from models.training.fit import Batch, Epoch, Schedule, fit
from models.training.learner import READ, normalise
from models.training.quantisers.affine import Quantiser
from models.training.quantisers.pact import clip_penalty
from models.training.twin import TwinError


def train_twin(
    twin: fx.GraphModule,
    views: NDArray[np.uint8],
    labels: NDArray[np.int64],
    *,
    learnt: Callable[[nn.Module], dict[str, Any]] | None,
    schedule: Schedule,
    rate: float,
    penalty: float,
    trained_from: int,
) -> None:
    """Train in place, on augmented views, with ranges as calibration left them unless they are learnt.

    Parameters
    ----------
    views, labels
        ``(N, side, side, 3)`` uint8 and ``(N,)``.
    learnt
        Gives the optimiser's group of what is learnt beside weights.
    rate
        Of the weights.
    penalty
        On the squares of PACT's clips.
    trained_from
        First stage of the trunk that is trained; those before are run as integers.
    """
    model: fx.GraphModule = twin
    before: Callable[[NDArray[np.uint8]], Tensor] = normalise
    if trained_from:
        stem, model = split(twin, trained_from)
        session = open_int8(export_twin(stem, rows=views.shape[1], columns=views.shape[2]))

        def before(shown: NDArray[np.uint8]) -> Tensor:
            return torch.from_numpy(session.run(None, {"frames": shown})[0])

    groups = [learnt(model)] if learnt else []
    taken = {id(each) for group in groups for each in group["params"]}
    rest = [each for each in model.parameters() if id(each) not in taken]

    def load(epoch: int) -> Iterator[Batch]:
        generator = np.random.default_rng((schedule.seed, epoch))
        order = generator.permutation(len(views))
        for at in range(0, len(order), READ):
            rows = order[at : at + READ]
            shown = before(np.stack([augment(view, generator) for view in views[rows]]))
            yield Batch(shown, torch.from_numpy(labels[rows]))

    def objective(model: nn.Module, batch: Batch) -> Tensor:
        loss = functional.cross_entropy(model(batch.inputs)[0], batch.targets)
        return loss + clip_penalty(model, strength=penalty) if penalty else loss

    def end(epoch: Epoch) -> None:
        for each in model.modules():
            if isinstance(each, Quantiser):
                each.end_of_epoch(epoch.number)

    fit(
        model,
        load,
        objective=objective,
        optimiser=torch.optim.Adam([{"params": rest, "lr": rate}, *groups]),
        schedule=schedule,
        callbacks=[end],
    )


def split(twin: fx.GraphModule, stage: int) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Return a twin's trunk up to a stage, and the rest; they share its layers.

    Raises
    ------
    TwinError
        There is no such stage, or more than one tensor goes into it.
    """
    nodes = list(twin.graph.nodes)
    here = [place for place, node in enumerate(nodes) if str(node.target).startswith(f"trunk.{stage}.")]
    start = min(here, default=0)
    given = {each for node in nodes[start:] for each in node.all_input_nodes} & set(nodes[:start])
    if len(given) != 1:
        raise TwinError(f"trunk.{stage}: a stage that takes one tensor was expected, {len(given)} were found")
    (cut,) = given
    stem, rest = fx.Graph(), fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    for node in nodes[:start]:
        copied[node] = stem.node_copy(node, copied.__getitem__)
    stem.output(copied[cut])
    copied = {cut: rest.placeholder("features")}
    for node in nodes[start:]:
        copied[node] = rest.node_copy(node, copied.__getitem__)
    return fx.GraphModule(twin, stem), fx.GraphModule(twin, rest)


def open_int8(model: onnx.ModelProto) -> ort.InferenceSession:
    """Return a session of one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
