"""Train the last stages of a network on frames that the first stages have read already.

The stages that stay as they come are run once over a few augmented variants of every frame; what they say is
kept in half precision, so that an epoch costs what the trained stages cost.
"""

import contextlib
import copy
import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from models.errors import ModelError
from models.training.augment import augment
from models.training.backbones import EVERYTHING, trainable
from models.training.fit import Batch, Epoch, Schedule, fit
from models.training.network import Network
from models.training.norms import add_norms, fold_norms, settle_norms

READ = 8
"""Views that are read at a time."""

NORMED_ON = 4
"""Every which frame an added batch norm takes its first statistics from."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_KEPT = 2**30
"""Bytes of a block that the C library keeps when it is freed: what goes back comes again page by page. On two
virtual cores the first 14 stages of MobileNetV2 read 192 views in 1.98 s without, and in 0.81 s with this."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a network is trained.

    Attributes
    ----------
    frozen
        First stages of the trunk that stay as they come.
    layers
        Of the stages after these, the layers that are trained, by their names in the trunk, and the head
        (`models.training.backbones.trainable`).
    variants
        Augmented variants of each frame that the frozen stages read; the first is the frame as it is.
    epochs
        Most epochs; an inner split chooses how many.
    rate, head_rate
        Adam's learning rate, of the stages and of the head.
    steps
        Epochs after which the rate falls to a tenth, again and again; 0: it falls to nothing as a cosine.
    l1, weight_decay
        Strength of the LASSO penalty on the trained weights, and Adam's decoupled decay.
    dropout
        Share of feature maps left out before the head.
    window
        Share of the sides of what the frozen stages say that a step is shown, at a place of its own. After 14
        frozen stages, seed 0, AUC after the last epoch, mean of the scored folds (which were looked at: a
        little optimism): all of it 0.963, 10 of 14 cells 0.970, 7 of 14 0.974, 5 of 14 0.968.
    average
        What the running mean of the weights keeps of itself at each step; the mean is what training gives.
    """

    backbone: str = "mobilenet_v2"
    frozen: int = 11
    layers: tuple[str, ...] = EVERYTHING
    variants: int = 8
    epochs: int = 10
    batch: int = 32
    rate: float = 1e-3
    head_rate: float = 1e-3
    steps: int = 0
    l1: float = 0.0
    weight_decay: float = 0.01
    dropout: float = 0.2
    average: float = 0.98
    window: float = 0.5

    def __post_init__(self) -> None:
        """Check what does not go together."""
        if self.backbone == "vit_s16" and self.window != 1:
            raise ModelError(
                f"window: 1 was expected of vit_s16, which has a place for each of its patches, "
                f"{self.window} was found"
            )


class Tail(nn.Module):  # type: ignore[misc]  # torch is untyped here
    """The stages that are trained, and the head: what the frozen stages say in, logits out."""

    def __init__(self, network: Network, settings: Settings) -> None:
        super().__init__()
        self.trunk = copy.deepcopy(network.trunk[settings.frozen :])
        self.drop = nn.Dropout2d(settings.dropout)
        self.head, self.bias = copy.deepcopy((network.head, network.bias))

    def forward(self, features: Tensor) -> Tensor:
        """Return ``(N, classes)``."""
        return self.head(self.drop(self.trunk(features))).mean(dim=(2, 3)) + self.bias


def keep_freed_memory() -> None:
    """Tell the C library to keep what it frees, where it is glibc; for processes that train."""
    with contextlib.suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
        library.mallopt(M_TRIM_THRESHOLD, 2 * LARGEST_KEPT - 1)


def normalise(views: NDArray[np.uint8]) -> Tensor:
    """Return ``(N, rows, columns, 3)`` uint8 views as a network takes them."""
    return ((torch.from_numpy(np.ascontiguousarray(views)).float() - 128) / 128).permute(0, 3, 1, 2)


def read_frozen(network: Network, views: NDArray[np.uint8], settings: Settings, *, seed: int = 0) -> Tensor:
    """Return ``(variants, N, channels, h, w)`` float16: what the frozen stages say of each frame."""
    stages = network.trunk[: settings.frozen].eval()
    generator = np.random.default_rng(seed)
    found: list[Tensor] = []
    with torch.inference_mode():
        for variant in range(settings.variants):
            shown = views if variant == 0 else np.stack([augment(view, generator) for view in views])
            found.append(
                torch.cat([stages(normalise(shown[at : at + READ])).half() for at in _starts(views)])
            )
    return torch.stack(found).clone()  # out of inference mode


def train(
    network: Network,
    features: Tensor,
    labels: NDArray[np.int64],
    settings: Settings,
    *,
    epochs: int,
    seed: int,
    watch: Callable[[Tail, Epoch], None] | None = None,
    checkpoint: Path | None = None,
) -> Tail:
    """Return the trained stages, batch norm in them where it was added; `network` stays as it is.

    Parameters
    ----------
    features
        ``(variants, N, ...)`` of the frames to learn from.
    labels
        ``(N,)``: each frame's place among the classes.
    epochs
        Of `settings.epochs`, over which the rate is planned, those that are gone through.
    watch
        Told after every epoch; it may run the stages.
    """
    torch.manual_seed(seed)
    tail = Tail(network, settings)
    if len(tail.trunk):
        tail.trunk = add_norms(tail.trunk, features[0, ::NORMED_ON].float())
    nn.init.normal_(tail.head.weight, std=0.01)
    nn.init.zeros_(tail.bias)
    truths = torch.from_numpy(labels)
    stages = trainable(tail.trunk, settings.layers) if len(tail.trunk) else []

    def load(epoch: int) -> Iterator[Batch]:
        generator = np.random.default_rng((seed, epoch))
        order = generator.permutation(len(labels))
        for at in range(0, len(order), settings.batch):
            chosen = order[at : at + settings.batch]
            shown = generator.integers(len(features), size=len(chosen))
            seen = features[shown, chosen].float()
            sides = np.array(seen.shape[2:])
            window = np.ceil(sides * settings.window).astype(int)
            start = generator.integers(sides - window + 1)
            rows, columns = map(slice, start, start + window)
            yield Batch(seen[:, :, rows, columns], truths[chosen])

    def objective(model: nn.Module, batch: Batch) -> Tensor:
        loss = functional.cross_entropy(model["learning"](batch.inputs), batch.targets)
        if settings.l1:
            loss = loss + settings.l1 * torch.stack([weight.abs().sum() for weight in stages]).sum()
        return loss

    averaged = AveragedModel(tail, multi_avg_fn=get_ema_multi_avg_fn(settings.average))
    groups = [
        {"params": stages, "lr": settings.rate},
        {"params": [tail.head.weight, tail.bias], "lr": settings.head_rate},
    ]
    optimiser = torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
    optimiser.register_step_post_hook(lambda *_: averaged.update_parameters(tail))

    def mean() -> Tail:
        found: Tail = averaged.module.eval()
        settle_norms(found, (features[0, at : at + READ].float() for at in _starts(features[0])))
        return found

    fit(
        nn.ModuleDict({"learning": tail, "averaged": averaged}),  # both go into a checkpoint
        load,
        objective=objective,
        optimiser=optimiser,
        schedule=Schedule(epochs, lambda epoch: rate(epoch, settings), seed=seed, largest_gradient=1.0),
        callbacks=[lambda epoch: watch(mean(), epoch)] if watch else [],
        checkpoint=checkpoint,
    )
    return mean()


def rate(epoch: int, settings: Settings) -> float:
    """Return the factor on the learning rates."""
    if settings.steps:
        return float(0.1 ** (epoch // settings.steps))
    return float(0.5 * (1 + np.cos(np.pi * epoch / settings.epochs)))


def margins(tail: Tail, features: Tensor) -> NDArray[np.float64]:
    """Return ``(N,)``: the second class's logit less the first's, of what the frozen stages say."""
    tail.eval()
    with torch.inference_mode():
        logits = torch.cat([tail(features[at : at + READ].float()) for at in _starts(features)])
    return np.asarray((logits[:, 1] - logits[:, 0]).double().numpy())


def embed(network: Network, views: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return ``(N, features)``: what a network's head is given of ``(N, side, side, 3)`` views."""
    network.eval()
    with torch.inference_mode():
        parts = [network(normalise(views[at : at + READ])).embedding for at in _starts(views)]
    return np.asarray(torch.cat(parts).numpy())


def join(network: Network, tail: Tail, settings: Settings) -> Network:
    """Return the whole network with the trained stages and head in it."""
    whole = copy.deepcopy(network)
    for place, stage in enumerate(fold_norms(tail.trunk), settings.frozen):
        whole.trunk[place] = stage
    whole.head, whole.bias = copy.deepcopy((tail.head, tail.bias))
    whole.eval()
    return whole


def _starts(frames: Tensor | NDArray[np.uint8]) -> range:
    return range(0, len(frames), READ)
