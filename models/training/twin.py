"""The fake-quant twin: a network that trains in float and reads as ONNX Runtime's integer kernels will.

`models.training.export.export_twin` writes the same network with real integers. Batch norm is folded first.
Then every layer's weight, and every tensor that an integer kernel would round, passes a quantiser: after a
convolution and its ReLU, after an addition and its ReLU. What only moves levels about (maximum, padding,
flattening) rounds nothing. The input needs no quantiser: a view's levels are exact as they come.
"""

import copy
import operator
from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.errors import ModelError
from models.training.ptq import ChannelClip
from models.training.quantisers.affine import Quantiser

INPUT_SCALE, INPUT_ZERO_POINT = 1 / 128, 128
"""A network here takes (pixel - 128) / 128."""

SIX = 6.0
"""Where ReLU6 ends."""

LAYERS = (nn.Conv2d, nn.Linear)
RECTIFIERS = (nn.ReLU, nn.ReLU6, ChannelClip)
MOVERS = (nn.MaxPool2d, nn.ZeroPad2d, nn.Flatten, nn.Identity, nn.Dropout, *RECTIFIERS)
FLATTENING = (torch.flatten, "flatten", "view")
ADDITIONS = (operator.add, torch.add)
ACTIVATIONS = "activations"
"""The twin's submodule that holds the quantisers of tensors, by the name of what they round."""


class TwinError(ModelError):
    """A network has what no twin can be made of, or a twin what no integer kernel computes."""


def build_twin(
    model: nn.Module,
    *,
    weight: Callable[[], Quantiser],
    activation: Callable[[], Quantiser],
    keep_float: Collection[str],
) -> fx.GraphModule:
    """Return the twin of `model`, which stays as it is; `calibrate` it before it reads anything.

    A layer keeps its name, and its float weight to train is ``<layer>.parametrizations.weight.original``. The
    quantisers, with what they learn, are ``<layer>.parametrizations.weight.0`` and ``activations.<tensor>``.
    The result of the last layers, after which no layer comes, is not rounded.

    Parameters
    ----------
    model
        Traceable by torch.fx; takes ``(N, 3, rows, columns)`` as (pixel - 128) / 128.
    weight, activation
        Make a new quantiser each time.
    keep_float
        Names of layers, as in ``model.named_modules()``, that stay in float.

    Raises
    ------
    TwinError
        A name in `keep_float` is no layer, or batch norm does not follow a convolution.
    """
    twin = fold(model)
    twin.add_submodule(ACTIVATIONS, nn.Module())
    names = layer_names(twin)
    if unknown := set(keep_float) - set(names):
        raise TwinError(
            f"keep_float: names of layers were expected, {sorted(unknown)} are none; take some of {names}"
        )
    for node in _rounded(twin, keep_float):
        name = f"{ACTIVATIONS}.{node.name}"
        twin.add_submodule(name, activation())
        with twin.graph.inserting_after(node):
            rounded = twin.graph.call_module(name, (node,))
        node.replace_all_uses_with(rounded, lambda user, rounded=rounded: user is not rounded)
    for name in names:
        if name not in keep_float:
            parametrize.register_parametrization(twin.get_submodule(name), "weight", weight(), unsafe=True)
    twin.recompile()
    return twin


def fold(model: nn.Module) -> fx.GraphModule:
    """Return a copy of a float network, traced, each batch norm folded into the convolution before it.

    Raises
    ------
    TwinError
        Batch norm does not follow a convolution.
    """
    twin = fx.symbolic_trace(copy.deepcopy(model).eval())
    for module in twin.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # what is written over cannot be rounded for one reader alone
    for node in list(twin.graph.nodes):
        if node.target is operator.iadd:
            node.target = operator.add
        norm = module_of(twin, node)
        if not isinstance(norm, nn.BatchNorm2d):
            continue
        before = node.args[0]
        convolution = module_of(twin, before)
        if not isinstance(convolution, nn.Conv2d) or len(before.users) > 1:
            raise TwinError(
                f"{node.target}: a convolution and nothing else was expected before batch norm, "
                f"{before.target} was found; fold it yourself"
            )
        twin.set_submodule(before.target, fuse_conv_bn_eval(convolution, norm))
        node.replace_all_uses_with(before)
        twin.graph.erase_node(node)
    twin.delete_all_unused_submodules()
    twin.recompile()
    return twin


def layer_names(model: nn.Module) -> list[str]:
    """Return the names of the convolutions and products, in the order they run."""
    graph = model.graph if isinstance(model, fx.GraphModule) else fx.Tracer().trace(model)
    return [str(node.target) for node in graph.nodes if isinstance(module_of(model, node), LAYERS)]


def paper_choice(model: nn.Module) -> list[str]:
    """Return what Datres et al. 2023 keep in float: the first convolution and the classifier."""
    names = layer_names(model)
    return [names[0], names[-1]]


def calibrate(twin: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set and freeze every quantiser: the weights', then the tensors' on what the rounded weights make.

    Training afterwards follows the paper's order (Datres et al. 2023): calibrate, freeze, train straight
    through.

    Parameters
    ----------
    batches
        ``(N, 3, rows, columns)`` float32 each, as the network takes them; never test frames.
    """
    layers = [module for module in twin.modules() if is_quantised(module)]
    tensors = list(twin.get_submodule(ACTIVATIONS).children())
    training = twin.training
    twin.eval()
    with torch.no_grad():
        for layer in layers:
            weight_quantiser(layer).observe(layer.parametrizations.weight.original)
            weight_quantiser(layer).freeze()
        for quantiser in tensors:
            quantiser.observing = True
        for batch in batches:
            twin(batch)
        for quantiser in tensors:
            quantiser.observing = False
            quantiser.freeze()
    twin.train(training)


def is_quantised(layer: nn.Module) -> bool:
    """Say whether a layer's weight passes a quantiser."""
    return bool(parametrize.is_parametrized(layer, "weight"))


def weight_quantiser(layer: nn.Module) -> Quantiser:
    """Return the quantiser of a quantised layer's weight."""
    quantiser: Quantiser = layer.parametrizations.weight[0]
    return quantiser


def module_of(model: nn.Module, node: fx.Node) -> nn.Module | None:
    """Return the module that a node of the graph calls."""
    return model.get_submodule(str(node.target)) if node.op == "call_module" else None


def moves(twin: fx.GraphModule, node: fx.Node) -> bool:
    """Say whether a node gives back what it takes, in another place or not at all."""
    return isinstance(module_of(twin, node), MOVERS) or node.target in FLATTENING


def _rounded(twin: fx.GraphModule, keep_float: Collection[str]) -> list[fx.Node]:
    """Return the nodes whose result is rounded.

    An integer convolution gives integers, unless it is the last. An addition of integers gives integers.
    Whatever else an integer layer takes is rounded for it.
    """
    feeding: set[fx.Node] = set()
    living: set[fx.Node] = set()
    for node in reversed(twin.graph.nodes):
        for user in node.users:
            layer = isinstance(module_of(twin, user), LAYERS)
            if layer or user in living:
                living.add(node)
            taking = (layer and user.target not in keep_float) or (user in feeding and moves(twin, user))
            if taking and user.args[0] is node:
                feeding.add(node)
    found: list[fx.Node] = []
    integer: set[Any] = set()
    for node in twin.graph.nodes:
        if node.op == "placeholder" or (moves(twin, node) and node.args[0] in integer):
            integer.add(node)
            continue
        made = isinstance(module_of(twin, node), LAYERS) and node.target not in keep_float
        added = node.target in ADDITIONS and all(each in integer for each in node.args)
        if moves(twin, node) or not (node in feeding or (node in living and (made or added))):
            continue
        users = list(node.users)
        after = users[0] if len(users) == 1 and isinstance(module_of(twin, users[0]), RECTIFIERS) else node
        found.append(after)
        integer |= {node, after}
    return found
