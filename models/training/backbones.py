"""The backbones that published weights fit, under the names of their publishers: ResNet50 and ViT-S/16."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from monai.networks.nets.resnet import resnet50 as monai_resnet50
from torch import Tensor, nn
from torch.nn import functional

from models.errors import ModelError

LAST_TWO_CONVOLUTIONS = ("layer4.2.conv2", "layer4.2.bn2", "layer4.2.conv3", "layer4.2.bn3", "fc")
"""What Datres et al. 2023 train of ResNet50: "the last two convolutional layers" and the classifier; a
convolution's batch norm goes with it."""

EVERYTHING = ("",)

PATCH, SIDE, WIDTH, DEPTH, HEADS, EPSILON = 16, 224, 384, 12, 6, 1e-6
"""ViT-S/16 (Touvron et al. 2021, table 1; epsilon of its norms as in the published code of DINO)."""


def resnet50(classes: int) -> nn.Module:
    """Return ResNet50 v1.5, stride in the 3x3 convolutions: ``(N, 3, rows, columns)`` to ``(N, classes)``.

    It is monai's, told to be flat, of three channels, with torchvision's stem and shortcuts without bias;
    names and arithmetic are then torchvision's.
    """
    return monai_resnet50(
        spatial_dims=2, n_input_channels=3, conv1_t_stride=2, bias_downsample=False, num_classes=classes
    )


class _Attention(nn.Module):  # type: ignore[misc]  # torch is untyped here
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        several = self.qkv(tokens).unflatten(2, (3, HEADS, WIDTH // HEADS)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(several[0], several[1], several[2])
        return self.proj(mixed.transpose(1, 2).flatten(2))


class _Block(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2 = (
            nn.LayerNorm(WIDTH, EPSILON),
            _Attention(),
            nn.LayerNorm(WIDTH, EPSILON),
        )
        wide, narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.mlp = nn.Sequential(OrderedDict(fc1=wide, act=nn.GELU(), fc2=narrow))

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class _VisionTransformer(nn.Module):  # type: ignore[misc]
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.patch_embed = nn.Sequential(OrderedDict(proj=nn.Conv2d(3, WIDTH, PATCH, PATCH)))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.zeros(1, (SIDE // PATCH) ** 2 + 1, WIDTH))
        self.blocks = nn.Sequential(*(_Block() for _ in range(DEPTH)))
        self.norm, self.head = nn.LayerNorm(WIDTH, EPSILON), nn.Linear(WIDTH, classes)
        for name, values in self.named_parameters():
            if values.ndim in (2, 3):  # of linear layers, or tokens
                nn.init.trunc_normal_(values, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(values)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch_embed(images).flatten(2).transpose(1, 2)
        tokens = torch.cat((self.cls_token.expand(images.shape[0], -1, -1), patches), dim=1) + self.pos_embed
        return self.head(self.norm(self.blocks(tokens))[:, 0])


def vit_s16(classes: int) -> nn.Module:
    """Return ViT-S/16, ``(N, 3, 224, 224)`` to ``(N, classes)``, with DINO's names and arithmetic.

    Not monai's: that one needs a further package (einops), has other epsilons, a norm more in each block, and
    no position for the class token.
    """
    return _VisionTransformer(classes)


def trainable(model: nn.Module, layers: Sequence[str]) -> list[nn.Parameter]:
    """Freeze all but `layers`, and return their parameters for an optimiser.

    Before every pass a batch norm whose weights are frozen goes back to evaluation by a hook of its own,
    whatever ``model.train()`` said: otherwise its statistics would drift to the new frames under weights that
    cannot follow.

    Parameters
    ----------
    layers
        Names of modules or parameters, all that is below them included: `LAST_TWO_CONVOLUTIONS`,
        `EVERYTHING`.

    Raises
    ------
    ModelError
        A name is of nothing that has parameters.
    """
    named = dict(model.named_parameters())
    for layer in layers:
        if not any(_is_below(name, layer) for name in named):
            raise ModelError(f"layer {layer!r}: a layer with parameters was expected, none has that name")
    for name, values in named.items():
        values.requires_grad_(any(_is_below(name, layer) for layer in layers))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(_stay_in_evaluation)
    return [values for values in named.values() if values.requires_grad]


def _is_below(name: str, layer: str) -> bool:
    return layer in ("", name) or name.startswith(f"{layer}.")


def _stay_in_evaluation(norm: nn.Module, _: object) -> None:
    if not norm.weight.requires_grad:
        norm.eval()
