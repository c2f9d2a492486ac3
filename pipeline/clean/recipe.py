"""The recipe of the cleaning: its steps, their settings and tools, and one digest of it all."""

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from pipeline.clean.crop import VIEW_SIDE
from pipeline.clean.quality import QualityLimits
from pipeline.errors import RecipeError

STEPS = ("content_area", "quality", "text", "instruments", "fill", "crop")
"""Every step, in the only order that works: each is a module of this package."""


INSTRUMENT_NETWORK = "8a379de8314500ad53632f29ccc5f5eab14dba91a31a5535a674fa0030b03aa8"
"""SHA-256 of the ``model.json`` in ``pipeline/instruments``."""


@dataclass(frozen=True, slots=True)
class TextChoice:
    """What finds overlay text: the network in RapidOCR's wheel, or keras-ocr in an environment of its own.

    Attributes
    ----------
    python, weights
        Of keras-ocr: the interpreter of its environment, and the CRAFT weights.
    """

    detector: Literal["rapidocr", "keras-ocr"] = "rapidocr"
    python: Path | None = None
    weights: Path | None = None


@dataclass(frozen=True, slots=True)
class InstrumentChoice:
    """What finds instruments: the network that ships, or a Mask R-CNN checkpoint of Detectron2.

    Attributes
    ----------
    sha256
        Of the network's ``model.json``, or of the checkpoint.
    config, checkpoint
        Of Detectron2.
    """

    detector: Literal["network", "detectron2"] = "network"
    sha256: str = INSTRUMENT_NETWORK
    config: Path | None = None
    checkpoint: Path | None = None


@dataclass(frozen=True, slots=True)
class FillChoice:
    """What fills the holes: OpenCV (Telea, Navier-Stokes), simple-lama-inpainting, or LaMa or MI-GAN in ONNX.

    Attributes
    ----------
    model, sha256
        Of the last two: the network's file and its digest.
    """

    method: Literal["telea", "navier-stokes", "lama", "onnx"] = "telea"
    model: Path | None = None
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What the cleaning does to every frame.

    Attributes
    ----------
    version
        Raised whenever a step's code or constants change what comes out.
    steps
        Those of `STEPS` that are done. Without ``content_area`` the whole frame is content; without ``crop``
        the view is the whole frame.
    quality
        From where a frame is refused.
    text, instruments, fill
        Each step's tool.
    view_side
        Rows and columns of the view.
    """

    version: int = 5
    steps: tuple[str, ...] = STEPS
    quality: QualityLimits = field(default_factory=QualityLimits)
    text: TextChoice = field(default_factory=TextChoice)
    instruments: InstrumentChoice = field(default_factory=InstrumentChoice)
    fill: FillChoice = field(default_factory=FillChoice)
    view_side: int = VIEW_SIDE

    def __post_init__(self) -> None:
        """Check the steps."""
        if not self.steps or list(self.steps) != [step for step in STEPS if step in self.steps]:
            raise ValueError(f"steps: some of {', '.join(STEPS)}, in that order, were expected")

    @property
    def digest(self) -> str:
        """SHA-256 of the steps and the settings of those done, as canonical JSON, without places of files."""
        settings = {
            name: value for name, value in asdict(self).items() if name not in STEPS or name in self.steps
        }
        text = json.dumps(_placeless(settings), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def load_recipe(path: Path | None) -> Recipe:
    """Read a recipe from a TOML file; what it leaves out is as in the default, which None stands for.

    Raises
    ------
    RecipeError
        The file cannot be read, or says what no recipe can.
    """
    if path is None:
        return DEFAULT
    try:
        stated = tomllib.loads(path.read_text(encoding="utf-8"))
        _check_known(stated, asdict(DEFAULT))
        return TypeAdapter(Recipe).validate_python(stated)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the recipe"
        raise RecipeError(f"{path}: {where}: {first['msg']}; see docs/cleaning.md") from error
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path}: a recipe in TOML was expected: {error}; see docs/cleaning.md") from error


def _check_known(stated: Mapping[str, Any], known: Mapping[str, Any], within: str = "") -> None:
    for key, value in stated.items():
        if key not in known:
            raise ValueError(f"{within}{key} is none of {', '.join(known)}")
        if isinstance(value, dict) and isinstance(known[key], dict):
            _check_known(value, known[key], f"{key}.")


def _placeless(value: object) -> object:
    if isinstance(value, dict):
        return {key: _placeless(part) for key, part in value.items() if not isinstance(part, Path)}
    return value


DEFAULT = Recipe()
