"""The instrument network, the frames it learns from and what it is to make small."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from monai.networks.blocks import Convolution
from monai.networks.nets.basic_unet import BasicUNet, UpCat
from torch import Tensor, nn
from torch.nn import functional

from models.training.composites import EMPTY, GLARE_PIXELS, compose, decoy
from models.training.fit import Batch
from models.training.scenery import Mask, Scene, Shape
from pipeline.frame import Pixels

ROWS, COLUMNS = 192, 224
"""What the network takes; every frame is brought to it whole."""

FEATURES = (16, 32, 48, 64, 96, 16)
STEM = 16

BATCH = 16
STEPS = 64
"""Batches an epoch."""

DECOYS = 0.4
"""Share of the frames without an instrument that get a patch of mucosa in an instrument's outline."""


WIDE_GLARE_PIXELS, WIDE_GLARE_EPOCHS = 40, 40
"""White shapes as wide as a tool teach first that white alone is none. Then real over-exposed folds teach it,
for with them all along a sheath lit to white was missed."""


def build_network() -> nn.Module:
    """Return a U-Net (Ronneberger et al. 2015) at half the input's resolution: normalised RGB in, logits out.

    Every convolution is followed by batch normalisation and ReLU, and feature maps grow by repetition, so
    that all but the last layer runs in integers; that one gives each cell four logits, one a pixel.
    """
    unet = BasicUNet(2, STEM, 4, features=FEATURES, act="RELU", norm="BATCH", upsample="nontrainable")
    for module in unet.modules():
        if isinstance(module, nn.Upsample):
            module.mode, module.align_corners = "nearest", None
        elif isinstance(module, UpCat):
            module.is_pad = (
                False  # the sides are multiples of 32: there is nothing to pad, and no kernel to wait for
            )
    stem = Convolution(2, 3, STEM, strides=2, kernel_size=3, act="RELU", norm="BATCH")
    return nn.Sequential(stem, unet, nn.PixelShuffle(2)).to(memory_format=torch.channels_last)


def draw(
    scenes: Sequence[Scene],
    shapes: Sequence[Shape],
    generator: np.random.Generator,
    *,
    glare_pixels: int = GLARE_PIXELS,
) -> tuple[Pixels, Mask]:
    """Return one training frame and its mask."""
    scene, other = (scenes[place] for place in generator.choice(len(scenes), 2, replace=False))
    shape: Shape | None = shapes[int(generator.integers(len(shapes)))]
    if generator.random() < EMPTY:
        if shape is not None and generator.random() < DECOYS:
            scene = decoy(scene, other, shape, generator)
        shape = None
    return compose(scene, shape, "train", generator, glare_pixels=glare_pixels)


def batches(scenes: Sequence[Scene], shapes: Sequence[Shape], *, epoch: int, seed: int) -> Iterator[Batch]:
    """Yield an epoch's batches, a function of `epoch` and `seed` alone."""
    generator = np.random.default_rng((seed, epoch))
    glare_pixels = WIDE_GLARE_PIXELS if epoch < WIDE_GLARE_EPOCHS else GLARE_PIXELS
    for _ in range(STEPS):
        drawn = [draw(scenes, shapes, generator, glare_pixels=glare_pixels) for _ in range(BATCH)]
        frames, masks = zip(*drawn, strict=True)
        targets = torch.from_numpy(np.stack(masks)[:, np.newaxis].astype(np.float32))
        yield Batch(torch.from_numpy(np.stack(frames)), targets)


def normalise_batch(frames: Tensor) -> Tensor:
    """Return ``(N, rows, columns, 3)`` uint8 frames as the network takes them (`models.training.export`)."""
    return ((frames.float() - 128) / 128).permute(0, 3, 1, 2)


def objective(model: nn.Module, batch: Batch) -> Tensor:
    """Return cross entropy plus 1 - Dice; the network runs in bfloat16, the loss in float32.

    Dice is half that of all pixels of the batch, half the mean over frames that show an instrument. With the
    second alone 30 % of plain frames had over 2 % masked after 15 epochs; with Dice of every frame, plain
    ones too, 38 % of the composites had Dice below 0.5 after 11 (validation part).
    """
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(normalise_batch(batch.inputs).contiguous(memory_format=torch.channels_last))
    logits = logits.float()
    chance = torch.sigmoid(logits)
    both, found, truth = (each.sum(dim=(1, 2, 3)) for each in (chance * batch.targets, chance, batch.targets))
    pooled = (2 * both.sum() + 1) / (found.sum() + truth.sum() + 1)
    shown = (truth > 0).float()
    each = ((2 * both + 1) / (found + truth + 1) * shown).sum() / shown.sum().clamp(min=1)
    return functional.binary_cross_entropy_with_logits(logits, batch.targets) + 1 - (pooled + each) / 2
