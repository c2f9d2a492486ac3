"""What a recipe names is what is opened, or one clear error."""

from dataclasses import replace

import pytest

from pipeline.clean.fill import navier_stokes
from pipeline.clean.recipe import DEFAULT, STEPS, FillChoice, InstrumentChoice, Recipe, TextChoice
from pipeline.errors import RecipeError
from pipeline.tools import open_cleaner


def test_every_step_has_its_tool() -> None:
    """The digest of the shipped network stands in the recipe: a network made anew is another recipe."""
    tools = open_cleaner(Recipe(steps=STEPS, fill=FillChoice("navier-stokes"))).tools
    assert tools.text is not None
    assert tools.instruments is not None
    assert tools.inpainter is navier_stokes
    assert open_cleaner(replace(DEFAULT, steps=("content_area", "crop"))).tools.text is None


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (Recipe(steps=("instruments",), instruments=InstrumentChoice(sha256="0" * 64)), "instruments.sha256"),
        (Recipe(text=TextChoice("keras-ocr")), "text.python"),
        (Recipe(fill=FillChoice("lama")), "fill.model"),
        (Recipe(fill=FillChoice("onnx")), "fill.model"),
        (Recipe(steps=STEPS, instruments=InstrumentChoice("detectron2")), "instruments.config"),
    ],
)
def test_a_tool_that_the_recipe_leaves_open_is_one_clear_error(recipe: Recipe, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        open_cleaner(recipe)
