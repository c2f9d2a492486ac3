"""Mend a calibrated twin without labels, layer by layer, on what the layers mended before it make.

What `models.training.ptq` does to a layer is done here to a network, in one run over its views.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn

from models.training.ptq import BATCH, FAST_RATE, ChannelClip, correct_bias, equalise, round_adaptively
from models.training.twin import LAYERS, MOVERS, SIX, is_quantised, module_of, weight_quantiser

PLACES = 32 * 14 * 14
"""Of a layer's output, on which its roundings are judged in one step: frames with larger maps are fewer."""


def equalise_all(network: fx.GraphModule) -> None:
    """Equalise, in place, every two convolutions of a folded network with nothing but a rectifier between."""
    for node in network.graph.nodes:
        first, clip, after = module_of(network, node), None, node
        while isinstance(first, nn.Conv2d) and len(after.users) == 1:
            (after,) = after.users
            module = module_of(network, after)
            if isinstance(module, nn.Conv2d):
                equalise(first, module, clip=clip)
                break
            if not isinstance(module, MOVERS) or isinstance(module, nn.Flatten):
                break
            if isinstance(module, nn.ReLU6):
                module = ChannelClip(torch.full((first.out_channels,), SIX))
                after.target = f"{after.name}_clip"
                network.add_submodule(after.target, module)
            clip = module if isinstance(module, ChannelClip) else clip
    network.recompile()


def channel_means(
    network: fx.GraphModule, batches: Iterable[Tensor], names: Iterable[str]
) -> dict[str, Tensor]:
    """Return ``(1, C, 1, ...)`` for each named layer: what each channel gives on average."""
    found: dict[str, list[Tensor]] = {name: [] for name in names}

    def watch(name: str) -> Any:
        def hook(_: nn.Module, __: Any, made: Tensor) -> None:
            found[name].append(made.mean([at for at in range(made.ndim) if at != 1], keepdim=True))

        return network.get_submodule(name).register_forward_hook(hook)

    handles = [watch(name) for name in found]
    with torch.no_grad():
        for batch in batches:
            network(batch)
    for handle in handles:
        handle.remove()
    return {name: torch.stack(means).mean(0) for name, means in found.items()}


class Repair(fx.Interpreter):  # type: ignore[misc]  # torch is untyped here
    """Runs a twin over all views at once and mends each layer when it is reached.

    Parameters
    ----------
    exact
        The network in float that the twin was built from, folded.
    means
        Of its layers (`channel_means`): each named layer's bias brings its channels back to them.
    iterations
        Of rounding that adapts to what a layer takes; 0: to the nearest. The target is what the layer gives
        in the float network (AdaRound, eq. 25, here before the activation function), so that it also makes up
        for the layers before.
    """

    def __init__(
        self,
        twin: fx.GraphModule,
        exact: fx.GraphModule,
        *,
        means: dict[str, Tensor],
        iterations: int,
        seed: int,
    ) -> None:
        super().__init__(twin)
        self.exact, self.means, self.iterations, self.seed = fx.Interpreter(exact), means, iterations, seed

    def run(self, views: Tensor) -> Any:
        """Mend the twin on ``(N, 3, rows, columns)`` normalised views; return what it makes of them then."""
        self.exact.env, self.exact.args_iter = {}, iter([views])
        self.ahead = iter(self.exact.module.graph.nodes)
        return super().run(views)

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Mend a layer, then run it."""
        layer = self.module.get_submodule(target)
        if isinstance(layer, LAYERS) and is_quantised(layer):
            inputs = args[0].detach()
            if self.iterations:
                targets = self._exact_outputs(target)
                weight = round_adaptively(
                    self.exact.fetch_attr(target), weight_quantiser(layer).pack(),
                    inputs=inputs, targets=targets,
                    iterations=self.iterations, rate=FAST_RATE, seed=self.seed,
                    batch=min(BATCH, max(1, PLACES // targets[0, 0].numel())),
                )  # fmt: skip
                with torch.no_grad():
                    layer.parametrizations.weight.original.copy_(weight)
            if target in self.means and layer.bias is not None:
                correct_bias(layer, inputs, targets=self.means[target])
        with torch.no_grad():
            return super().call_module(target, args, kwargs)

    def _exact_outputs(self, target: str) -> Any:
        """Run the float network up to a layer, and return what that gives."""
        exact = self.exact
        with torch.no_grad():
            for node in self.ahead:
                exact.env[node] = made = exact.run_node(node)
                for used in exact.user_to_last_uses.get(node, ()):
                    del exact.env[used]
                if node.target == target:
                    return made
        raise KeyError(f"{target}: a layer of the float network was expected, in the twin's order")
