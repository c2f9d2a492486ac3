"""MobileNetV2 1.0, its batch norm folded, as its published weights come."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from models.errors import ModelError
from models.training.network import Network

STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels, blocks and first stride of each stage (Sandler et al. 2018, Table 2)."""

FEATURES = 1280
PUBLISHED_CLASSES = 1001


class Block(nn.Module):  # type: ignore[misc]  # torch is untyped here
    """An inverted residual: widened, filtered by channel, narrowed; added to its input where shapes agree."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        wide = inputs * expansion
        widened = _convolution(inputs, wide, 1) if expansion > 1 else []
        filtered = _convolution(wide, wide, 3, stride=stride, groups=wide)
        self.layers = nn.Sequential(*widened, *filtered, nn.Conv2d(wide, outputs, 1))
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, outputs, h, w)``."""
        return x + self.layers(x) if self.adds else self.layers(x)


class MobileNetV2(Network):
    """The trunk's 19 stages: a stem, 17 blocks and a widening convolution."""

    def __init__(self, classes: int = 2) -> None:
        stages: list[nn.Module] = [nn.Sequential(*_convolution(3, 32, 3, stride=2))]
        channels = 32
        for expansion, outputs, blocks, stride in STAGES:
            for place in range(blocks):
                stages.append(Block(channels, outputs, expansion, stride if place == 0 else 1))
                channels = outputs
        stages.append(nn.Sequential(*_convolution(channels, FEATURES, 1)))
        super().__init__(nn.Sequential(*stages), FEATURES, classes)
        for module in self.trunk.modules():
            if isinstance(module, nn.Conv2d):  # without batch norm torch's own start lets every signal fade
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)


def load_published(network: MobileNetV2, weights: Path) -> None:
    """Put the published ImageNet weights into the trunk, and the head where it has the 1001 classes.

    Raises
    ------
    ModelError
        The file is no such network: a convolution is missing or of another shape.
    """
    try:
        tensors = {tensor.name: tensor for tensor in onnx.load(weights).graph.initializer}
    except Exception as error:  # protobuf's own, and OSError
        raise ModelError(f"{weights}: MobileNetV2's weights in ONNX were expected: {error}") from error
    parameters = [(each.weight, each.bias) for each in network.trunk.modules() if isinstance(each, nn.Conv2d)]
    if network.head.out_channels == PUBLISHED_CLASSES:
        parameters.append((network.head.weight, network.bias))
    for number, (weight, bias) in enumerate(parameters):
        for name, parameter in ((f"w{number}", weight), (f"b{number}", bias)):
            found = tensors.get(name)
            if found is None or tuple(found.dims) != tuple(parameter.shape):
                raise ModelError(
                    f"{weights}: {name} of shape {tuple(parameter.shape)} was expected, "
                    f"{tuple(found.dims) if found else 'nothing'} was found"
                )
            with torch.no_grad():
                parameter.copy_(torch.from_numpy(np.array(numpy_helper.to_array(found))))


def _convolution(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> Sequence[nn.Module]:
    """Return a convolution with ReLU6, padded as TensorFlow's SAME pads even sides: none above, one below."""
    early: list[nn.Module] = [nn.ZeroPad2d((0, 1, 0, 1))] if stride > 1 else []
    padding = kernel // 2 if stride == 1 else 0
    return [*early, nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups), nn.ReLU6()]
