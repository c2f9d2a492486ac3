from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.clean.quality import QualityLimits
from pipeline.clean.recipe import DEFAULT, STEPS, FillChoice, Recipe, TextChoice, load_recipe
from pipeline.errors import RecipeError


def test_the_same_settings_have_the_same_digest() -> None:
    assert Recipe().digest == DEFAULT.digest
    assert len(DEFAULT.digest) == 64


def test_every_setting_is_in_the_digest() -> None:
    """A result that names a digest must be reproducible from it."""
    others = [
        replace(DEFAULT, version=99),
        replace(DEFAULT, steps=STEPS[1:]),
        replace(DEFAULT, quality=QualityLimits(out_of_focus_below=21.0)),
        replace(DEFAULT, text=TextChoice("keras-ocr")),
        replace(DEFAULT, fill=FillChoice("navier-stokes")),
        replace(DEFAULT, fill=FillChoice("lama", Path("/a"), "ab")),
        replace(DEFAULT, view_side=256),
    ]
    assert len({recipe.digest for recipe in [DEFAULT, *others]}) == len(others) + 1


def test_where_a_file_lies_and_what_is_not_done_are_not_in_the_digest() -> None:
    """The same cleaning on two hosts is the same; a detector that never runs changes nothing."""
    assert (
        replace(DEFAULT, fill=FillChoice("lama", Path("/a"), "ab")).digest
        == replace(DEFAULT, fill=FillChoice("lama", Path("/b"), "ab")).digest
    )
    plain = replace(DEFAULT, steps=("content_area", "crop"))
    assert replace(plain, text=TextChoice("keras-ocr")).digest == plain.digest


def test_a_recipe_file_states_only_what_differs(tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text(
        'steps = ["content_area", "crop"]\n[quality]\nout_of_focus_below = 30.0\n', encoding="utf-8"
    )
    expected = replace(
        DEFAULT, steps=("content_area", "crop"), quality=QualityLimits(out_of_focus_below=30.0)
    )
    assert load_recipe(file) == expected


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ('steps = ["crop", "text"]', "in that order"),
        ('steps = ["wash"]', "in that order"),
        ("sharpen = true", "sharpen"),
        ("[quality]\nfocus = 3", "quality.focus"),
        ('[text]\ndetector = "eyes"', "text.detector"),
        ("steps = [", "TOML"),
    ],
)
def test_a_recipe_that_cannot_be_is_one_clear_line(tmp_path: Path, stated: str, said: str) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text(stated, encoding="utf-8")
    with pytest.raises(RecipeError) as raised:
        load_recipe(file)
    assert said in str(raised.value)
    assert str(file) in str(raised.value)
    assert "\n" not in str(raised.value)
    with pytest.raises(RecipeError, match="TOML"):
        load_recipe(tmp_path / "absent.toml")
