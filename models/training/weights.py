"""The one loader of weights that somebody brings, their normalisation folded into the first layer."""

import hashlib
import io
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.errors import ModelError
from models.training.export import SCALE, ZERO_POINT

WRAPPERS = ("teacher", "state_dict", "model", "model_state_dict")
PREFIXES = ("module.", "backbone.", "teacher.", "student_backbone.")
CLASSIFIER = ("fc.", "head.")
"""Parts of a network that a file may lack or have for other classes; the rest is the backbone."""

COUNTER = "num_batches_tracked"
"""Of batch norm: nothing depends on it, and files of before 2018 have none."""

LEAST_MATCHING = 0.99
"""Share of the backbone's tensors that a file must have, as the publishers' own files do."""

NAMED = 5
"""Tensors that an error names."""


class WeightsError(ModelError):
    """A file of weights cannot be read safely, or is not of this network."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was taken from a file of weights.

    Attributes
    ----------
    digest
        SHA-256 of the file.
    matched
        Tensors of the network that are the file's now.
    missing
        Tensors of the network that are as they were.
    unexpected
        Tensors of the file that the network has no place for, prefixes stripped.
    """

    digest: str
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


def load_weights(model: nn.Module, path: Path, *, sha256: str | None = None) -> Loaded:
    """Put the tensors of a ``torch.save`` file into `model`; nothing of it changes where the file is refused.

    Parameters
    ----------
    path
        Tensors by name, in a wrapper and under prefixes or not; no code in it is ever run.
    sha256
        What the file must be, where known.

    Raises
    ------
    WeightsError
        The file is missing, altered or needs code; fewer than 99 % of the backbone's tensors are in it, one
        is of another shape, or it has more of a part of the backbone than the network (a ResNet101 holds a
        ResNet50).
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: a file of weights was expected: {error}") from error
    digest = hashlib.sha256(content).hexdigest()
    if sha256 not in (None, digest):
        raise WeightsError(f"{path}: SHA-256 {sha256} was expected, {digest} was found; get the file anew")
    given = _strip(_unwrap(_read(path, content), path), path)
    own = model.state_dict()
    matched = {
        name: values for name, values in given.items() if name in own and values.shape == own[name].shape
    }
    backbone = [name for name in own if not name.startswith(CLASSIFIER) and not name.endswith(COUNTER)]
    absent = [name for name in backbone if name not in given]
    parts = {name.partition(".")[0] for name in backbone}
    foreign = [name for name in given if name.partition(".")[0] in parts and name not in matched]
    if foreign or len(absent) > (1 - LEAST_MATCHING) * len(backbone):
        found = len(backbone) - len(absent)
        raise WeightsError(
            f"{path}: weights of this network were expected, {found} of its backbone's {len(backbone)} "
            f"tensors were found by name; missing: {_name(absent)}; not of this network or of another shape: "
            f"{_name(foreign)}; name the network that the file was made with"
        )
    model.load_state_dict(matched, strict=False)
    return Loaded(
        digest,
        tuple(name for name in own if name in matched),
        tuple(name for name in own if name not in matched),
        tuple(name for name in given if name not in matched),
    )


def _read(path: Path, content: bytes) -> Any:
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise WeightsError(
            f"{path}: a torch.save file of tensors alone was expected, none that loads without running code "
            f"was found ({reason}); where it was made, save its state_dict() alone"
        ) from error


def _unwrap(found: Any, path: Path) -> dict[str, Tensor]:
    """Return the named tensors at the bottom of all wrappers."""
    while isinstance(found, Mapping):
        inner = next((found[key] for key in WRAPPERS if isinstance(found.get(key), Mapping)), None)
        if inner is None:
            break
        found = inner
    named = found.items() if isinstance(found, Mapping) else ()
    tensors = {name: values for name, values in named if isinstance(name, str) and isinstance(values, Tensor)}
    if not tensors:
        raise WeightsError(f"{path}: tensors by name were expected, {type(found).__name__} without was found")
    return tensors


def _strip(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    stripped: dict[str, Tensor] = {}
    for name, values in tensors.items():
        short = name
        while prefix := next((each for each in PREFIXES if short.startswith(each)), None):
            short = short.removeprefix(prefix)
        if short in stripped:
            raise WeightsError(
                f"{path}: one tensor {short!r} was expected, several were found; save one network"
            )
        stripped[short] = values
    return stripped


def _name(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more if names else "none"


def fold_normalisation(conv: nn.Conv2d, *, mean: Sequence[float], std: Sequence[float]) -> float:
    """Let the first convolution of weights made for (pixel / 255 - mean) / std take (pixel - 128) / 128.

    With a = 128 / (255 std) and c = (128 - 255 mean) / (255 std) the former is a times the latter plus c:
    weights are multiplied by a, and c goes through the weights into the bias, which appears where there was
    none. That is exact wherever the kernel sees pixels alone. Under padding it is not: a zero was a pixel of
    the mean's colour and is now one of level 128, which only a padding of -c/a would undo, another for each
    channel, while an integer network has one zero point for all. ResNet50's stem (Kaiming's random weights,
    ImageNet's mean) then differs by up to 0.21 at 5 % of its places; the standard deviation of its output is
    0.36. ViT pads nothing.

    Parameters
    ----------
    conv
        Of three channels, padded with zeros or not at all; changed in place.
    mean, std
        For each channel, on a scale of 0 to 1.

    Returns
    -------
    float
        The largest difference, over output channels and places of the border, in the convolution's output.
    """
    spread = torch.tensor(std)
    factor = 1 / (255 * SCALE * spread)
    constant = ((ZERO_POINT / 255 - torch.tensor(mean)) / spread).view(1, 3, 1, 1)
    with torch.no_grad():
        whole = (conv.weight * constant).sum(dim=(1, 2, 3))
        plain = constant.expand(1, 3, *(4 * size for size in conv.kernel_size))
        seen = functional.conv2d(plain, conv.weight, stride=conv.stride, padding=conv.padding)
        conv.weight *= factor.view(1, 3, 1, 1)
        conv.bias = nn.Parameter(whole if conv.bias is None else conv.bias + whole)
    return float((whole.view(1, -1, 1, 1) - seen).abs().max())
