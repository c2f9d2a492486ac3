"""The nodes of a twin in ONNX: quantising and dequantising where it rounds, integers for its weights."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor, fx, nn

from models.training.kernels import ends, integer_layer
from models.training.quantisers.affine import Packed, Quantiser
from models.training.twin import (
    ADDITIONS,
    FLATTENING,
    RECTIFIERS,
    SIX,
    TwinError,
    is_quantised,
    module_of,
    weight_quantiser,
)

UNSIGNED, SIGNED = (0, 255), (-127, 127)
"""The integers of activations and of weights that ONNX Runtime's kernels take."""


@dataclass(frozen=True, slots=True)
class Levels:
    """A tensor in integers: the names of these, of their scale and zero point, and the scale's value."""

    integers: str
    scale: str
    zero_point: str
    step: np.float32


class Writer:
    """The nodes and constants written so far, and the names that the twin's tensors have in them."""

    def __init__(self, twin: fx.GraphModule) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._twin = twin
        self._real: dict[fx.Node, str] = {}
        self._levels: dict[fx.Node, Levels] = {}

    def take(self, node: fx.Node, integers: str, *, scale: float, zero_point: int) -> None:
        """Note under which name the integers of a tensor are."""
        scale_name = self._constant(f"{node.name}_scale", np.array(scale, np.float32))
        zero_name = self._constant(f"{node.name}_zero_point", np.array(zero_point, np.uint8))
        self._levels[node] = Levels(integers, scale_name, zero_name, np.float32(scale))

    def real(self, node: fx.Node) -> str:
        """Return the name of a tensor in float."""
        if node not in self._real:
            levels = self._levels[node]
            inputs = [levels.integers, levels.scale, levels.zero_point]
            self._real[node] = self._add("DequantizeLinear", inputs, f"{node.name}_real")
        return self._real[node]

    def write(self, node: fx.Node) -> None:
        """Write what a node of the twin computes; its inputs are written already.

        Raises
        ------
        TwinError
            It is none of what is known here, or a quantiser's integers are none of 8 bits.
        """
        module = module_of(self._twin, node)
        match module:
            case Quantiser():
                self._round(node, module.pack())
            case nn.Conv2d() | nn.Linear():
                self._real[node] = self._layer(node, module)
            case nn.ZeroPad2d() | nn.ReLU() | nn.ReLU6() if self._is_absorbed(node, module):
                pass
            case nn.ReLU() | nn.ReLU6():
                limits = [0, SIX] if isinstance(module, nn.ReLU6) else []
                names = [self._constant(f"{node.name}_{end}", np.array(end, np.float32)) for end in limits]
                self._move(node, "Clip" if limits else "Relu", *names)
            case nn.MaxPool2d():
                kernel, strides, pads, dilations = map(
                    _pair, (module.kernel_size, module.stride, module.padding, module.dilation)
                )
                shape = {"kernel_shape": kernel, "strides": strides, "pads": pads * 2, "dilations": dilations}
                self._move(node, "MaxPool", **shape, ceil_mode=int(module.ceil_mode))
            case nn.AdaptiveAvgPool2d(output_size=1 | (1, 1)):
                self._real[node] = self._add("GlobalAveragePool", [self.real(node.args[0])], node.name)
            case nn.Identity() | nn.Dropout():
                self._move(node, "Identity")
            case nn.Flatten(start_dim=1, end_dim=-1):
                self._move(node, "Flatten", axis=1)
            case None:
                self._function(node)
            case _:
                raise _unknown(node, module)

    def _function(self, node: fx.Node) -> None:
        match node.target, node.args, node.kwargs:
            case target, (fx.Node() as one, fx.Node() as other), _ if target in ADDITIONS:
                self._real[node] = self._add("Add", [self.real(one), self.real(other)], node.name)
            case target, (_, 1) | (_, fx.Node(target="size"), -1), _ if target in FLATTENING:
                self._move(node, "Flatten", axis=1)
            case "mean", (fx.Node() as one,), {"dim": (2, 3)}:
                pooled = self._add("GlobalAveragePool", [self.real(one)], f"{node.name}_pooled")
                self._real[node] = self._add("Flatten", [pooled], node.name, axis=1)
            case str(name), (), _ if node.op == "get_attr":
                self._real[node] = self._constant(name, _array(self._twin.get_parameter(name)))
            case "size" | type(), _, _:
                pass  # flattening knows the first; a named tuple is what the outputs are taken from
            case _:
                raise _unknown(node, node.target)

    def _is_absorbed(self, node: fx.Node, module: nn.Module) -> bool:
        """Say whether what follows does by itself what a padding or a ReLU does."""
        absorbing = nn.Conv2d if isinstance(module, nn.ZeroPad2d) else Quantiser
        return all(isinstance(module_of(self._twin, user), absorbing) for user in node.users)

    def _move(self, node: fx.Node, kind: str, *constants: str, **attributes: Any) -> None:
        """Write a node that gives levels where it takes levels, and float where it takes float."""
        source = node.args[0]
        moved = self._add(kind, [self.real(source), *constants], node.name, **attributes)
        if source not in self._levels:
            self._real[node] = moved
            return
        levels = self._levels[source]
        inputs = [moved, levels.scale, levels.zero_point]
        integers = self._add("QuantizeLinear", inputs, f"{node.name}_levels")
        self._levels[node] = replace(levels, integers=integers)

    def _round(self, node: fx.Node, grid: Packed) -> None:
        _demand(node, grid, UNSIGNED, axis=None)
        source, rectifier = node.args[0], module_of(self._twin, node.args[0])
        low, high = map(int, ends(grid, rectifier))
        source = source.args[0] if isinstance(rectifier, RECTIFIERS) else source
        self.take(node, f"{node.name}_levels", scale=float(grid.scale), zero_point=int(grid.zero_point))
        inputs = [self.real(source), self._levels[node].scale, self._levels[node].zero_point]
        integers = self._add("QuantizeLinear", inputs, self._levels[node].integers)
        if (low, high) != UNSIGNED:
            limits = {"low": low, "high": high}
            names = [
                self._constant(f"{node.name}_{at}", np.array(end, np.uint8)) for at, end in limits.items()
            ]
            integers = self._add("Clip", [integers, *names], f"{node.name}_clipped")
            self._levels[node] = replace(self._levels[node], integers=integers)

    def _layer(self, node: fx.Node, layer: nn.Module) -> str:
        source, before = node.args[0], (0, 0, 0, 0)
        if isinstance(pad := module_of(self._twin, source), nn.ZeroPad2d):
            source, before = source.args[0], pad.padding
        taken = self.real(source) if is_quantised(layer) else self._spelled_out(source, node.name)
        inputs = [taken, *self._weights(node, layer, self._levels.get(source))]
        if isinstance(layer, nn.Linear):
            return self._add("Gemm", inputs, node.name, transB=1)
        left, right, top, bottom = before
        rows, columns = layer.padding
        return self._add(
            "Conv", inputs, node.name, kernel_shape=layer.kernel_size, strides=layer.stride,
            pads=[top + rows, left + columns, bottom + rows, right + columns],
            dilations=layer.dilation, group=layer.groups,
        )  # fmt: skip

    def _spelled_out(self, source: fx.Node, name: str) -> str:
        """Return the name of what a layer in float takes, dequantised in two steps.

        After a single one, and before the next rounding, ONNX Runtime rounds a float weight by itself, with
        one scale for all channels.
        """
        if source not in self._levels:
            return self.real(source)
        levels = self._levels[source]
        one = self._constant(f"{name}_one", np.array(1, np.float32))
        centred = self._add("DequantizeLinear", [levels.integers, one, levels.zero_point], f"{name}_centred")
        return self._add("Mul", [centred, levels.scale], f"{name}_input")

    def _weights(self, node: fx.Node, layer: nn.Module, source: Levels | None) -> list[str]:
        """Write weight and bias; return their names in float."""
        name = node.name
        if not is_quantised(layer) or source is None:
            bias = torch.zeros(len(layer.weight)) if layer.bias is None else layer.bias
            names = {f"{name}_weight": layer.weight, f"{name}_bias": bias}
            return [self._constant(each, _array(tensor)) for each, tensor in names.items()]
        _demand(node, weight_quantiser(layer).pack(), SIGNED, axis=0)
        weight, scale, bias = map(_array, integer_layer(layer, torch.tensor(source.step)))
        integers = self._constant(f"{name}_weight", weight.astype(np.int8))
        scales = self._constant(f"{name}_scales", scale)
        zeros = self._constant(f"{name}_zero_points", np.zeros(len(scale), np.int8))
        biases = self._constant(f"{name}_bias", bias.astype(np.int32))
        steps = self._constant(f"{name}_bias_scales", source.step * scale)
        return [
            self._add("DequantizeLinear", [integers, scales, zeros], f"{name}_weight_real", axis=0),
            self._add("DequantizeLinear", [biases, steps], f"{name}_bias_real", axis=0),
        ]

    def _add(self, kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def _constant(self, name: str, value: NDArray[Any]) -> str:
        self.constants.append(numpy_helper.from_array(value, name))
        return name


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return np.asarray(tensor.detach().float().numpy())


def _pair(value: int | tuple[int, int]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


def _demand(node: fx.Node, grid: Packed, ends: tuple[int, int], *, axis: int | None) -> None:
    if grid.low < ends[0] or grid.high > ends[1] or grid.axis != axis:
        raise TwinError(
            f"{node.target}: integers from {ends[0]} to {ends[1]} along axis {axis} were expected, "
            f"{grid.low} to {grid.high} along {grid.axis} were found; export a twin of at most 8 bits, its "
            "weights symmetric per output channel"
        )


def _unknown(node: fx.Node, found: object) -> TwinError:
    return TwinError(
        f"{node.name}: a layer, ReLU, ReLU6, maximum or global average pool, flattening, mean over rows and "
        f"columns or addition was expected, {found} was found; write it into models.training.qdq"
    )
