from dataclasses import replace

from pipeline.clean.quality import QualityLimits
from pipeline.clean.recipe import DEFAULT, Recipe


def test_the_same_settings_have_the_same_digest() -> None:
    assert Recipe().digest == DEFAULT.digest
    assert len(DEFAULT.digest) == 64


def test_every_setting_is_in_the_digest() -> None:
    """A result that names a digest must be reproducible from it."""
    others = [
        replace(DEFAULT, version=2),
        replace(DEFAULT, quality=QualityLimits(blurred_below=21.0)),
        replace(DEFAULT, text_detector="another"),
        replace(DEFAULT, view_side=256),
    ]
    assert len({recipe.digest for recipe in [DEFAULT, *others]}) == 5
