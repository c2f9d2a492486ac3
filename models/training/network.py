"""What every classifier here is: a trunk of stages, and a head that explains itself.

The head is a 1x1 convolution whose output, the class activation map (Zhou et al. 2016), is averaged; a bias
is added. The map holds the very terms of the logit.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.training.backbones import WIDTH, resnet50, vit_s16

RESNET_FEATURES = 2048


class Read(NamedTuple):
    """What the network gives for N views: ``(N, classes)``, ``(N, classes, h, w)`` and ``(N, features)``."""

    logits: Tensor
    cam: Tensor
    embedding: Tensor


class Network(nn.Module):  # type: ignore[misc]  # torch is untyped here
    """Views in, ``(N, 3, rows, columns)`` as (pixel - 128) / 128; logits, activation maps, embedding out.

    Parameters
    ----------
    trunk
        Stages that run one after the other, to ``(N, features, h, w)``.
    """

    def __init__(self, trunk: nn.Sequential, features: int, classes: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = nn.Conv2d(features, classes, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, views: Tensor) -> Read:
        """Return what the views show."""
        features = self.trunk(views)
        cam = self.head(features)
        return Read(cam.mean(dim=(2, 3)) + self.bias, cam, features.mean(dim=(2, 3)))


def resnet50_network(classes: int, published: nn.Module | None = None) -> Network:
    """Return ResNet50, its trunk that of `published` (`models.training.backbones`, weights loaded)."""
    body = resnet50(classes) if published is None else published
    stem = nn.Sequential(body.conv1, body.bn1, nn.ReLU(), body.maxpool)
    stages = [block for layer in (body.layer1, body.layer2, body.layer3, body.layer4) for block in layer]
    return Network(nn.Sequential(stem, *stages), RESNET_FEATURES, classes)


def vit_network(classes: int, published: nn.Module | None = None) -> Network:
    """Return ViT-S/16 as one stage; its class token is its only feature, so that its map has one cell."""
    body = vit_s16(classes) if published is None else published
    body.head = nn.Unflatten(1, (WIDTH, 1, 1))
    return Network(nn.Sequential(body), WIDTH, classes)
