"""Small networks of the shapes that are quantised here, and their twins."""

from collections.abc import Collection

import numpy as np
import torch
from monai.networks.nets.resnet import ResNet
from numpy.typing import NDArray
from torch import fx, nn

from models.training.export import normalise
from models.training.quantisers.affine import Quantiser, UniformConfig, UniformQuantiser
from models.training.twin import build_twin, calibrate

SIDE = 32


def residual_network() -> nn.Module:
    """Return a bottleneck of each stride, with batch norms that have something to fold."""
    torch.manual_seed(3)
    network = ResNet(
        "bottleneck", [1, 1, 1, 1], [8, 8, 16, 16], spatial_dims=2, n_input_channels=3, num_classes=2,
        conv1_t_size=7, conv1_t_stride=2, bias_downsample=False,
    )  # fmt: skip
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.5, 2)
    return network.eval()


def make_weight(bits: int = 8) -> Quantiser:
    """Return a quantiser of weights: min-max, symmetric, per output channel."""
    return UniformQuantiser(UniformConfig(bits, symmetric=True, axis=0))


def make_activation(bits: int = 8) -> Quantiser:
    """Return a quantiser of activations: min-max, affine, per tensor."""
    return UniformQuantiser(UniformConfig(bits))


def make_frames(number: int, *, rows: int = SIDE, columns: int = SIDE) -> NDArray[np.uint8]:
    """Return ``(number, rows, columns, 3)`` frames of noise with black on one side."""
    frames = np.random.default_rng(number).integers(0, 256, (number, rows, columns, 3), dtype=np.uint8)
    frames[:, :, : columns // 4] = 0
    return frames


def as_batch(frames: NDArray[np.uint8]) -> torch.Tensor:
    """Return frames as the networks take them."""
    return torch.from_numpy(np.ascontiguousarray(normalise(frames)))


def make_twin(network: nn.Module, *, keep_float: Collection[str] = ()) -> fx.GraphModule:
    """Return the network's twin of 8 bits, calibrated on frames of noise."""
    twin = build_twin(network, weight=make_weight, activation=make_activation, keep_float=keep_float)
    calibrate(twin, [as_batch(make_frames(4))])
    return twin
