"""The tools that a recipe names, opened."""

from pathlib import Path

from pipeline.adapters.instrument_network import InstrumentNetwork
from pipeline.adapters.rapid_text import RapidText
from pipeline.clean.cleaner import Cleaner, Tools
from pipeline.clean.fill import Inpainter, navier_stokes, telea
from pipeline.clean.instruments import InstrumentDetector
from pipeline.clean.recipe import FillChoice, InstrumentChoice, Recipe, TextChoice
from pipeline.clean.text import TextDetector
from pipeline.errors import RecipeError


def open_cleaner(recipe: Recipe, *, threads: int = 1) -> Cleaner:
    """Return a cleaner of the recipe whose tools are loaded and checked; threads may share it.

    Parameters
    ----------
    threads
        Threads within one text detection, for which callers take turns; all else runs on the caller's own.

    Raises
    ------
    PipelineError
        A tool is not installed, or its file is missing or is not the one that the recipe names.
    """
    steps = recipe.steps
    return Cleaner(
        Tools(
            text=_text(recipe.text, threads) if "text" in steps else None,
            instruments=_instruments(recipe.instruments) if "instruments" in steps else None,
            inpainter=_inpainter(recipe.fill) if "fill" in steps else telea,
        ),
        recipe,
    )


def _text(choice: TextChoice, threads: int) -> TextDetector:
    if choice.detector == "rapidocr":
        return RapidText(threads=threads)
    from pipeline.adapters.keras_ocr import KerasOcrText  # starts a process: only where it is wanted

    return KerasOcrText(_named(choice.python, "text.python"), _named(choice.weights, "text.weights"))


def _instruments(choice: InstrumentChoice) -> InstrumentDetector:
    if choice.detector == "detectron2":
        from pipeline.adapters.detectron2 import load_detectron2  # an optional tool

        config = _named(choice.config, "instruments.config")
        return load_detectron2(
            config, _named(choice.checkpoint, "instruments.checkpoint"), sha256=choice.sha256
        )
    network = InstrumentNetwork()
    if choice.sha256 != network.digest:
        raise RecipeError(
            f"the recipe's instruments.sha256: {network.digest}, the network that ships, was expected, "
            f"{choice.sha256!r} was found"
        )
    return network


def _inpainter(choice: FillChoice) -> Inpainter:
    if choice.method in ("telea", "navier-stokes"):
        return telea if choice.method == "telea" else navier_stokes
    model = _named(choice.model, "fill.model")
    if choice.method == "lama":
        from pipeline.adapters.lama import Lama  # loads torch

        return Lama(model, sha256=choice.sha256)
    from pipeline.adapters.onnx_inpainter import OnnxInpainter

    return OnnxInpainter(model, sha256=choice.sha256)


def _named(path: Path | None, setting: str) -> Path:
    if path is None:
        raise RecipeError(f"the recipe's {setting}: a path was expected, none was found")
    return path
