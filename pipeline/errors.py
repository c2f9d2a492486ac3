"""What can go wrong in the pipeline; each message names the thing, what was expected and what was found."""


class PipelineError(Exception):
    """Base of every error the pipeline raises on purpose."""


class DecodeError(PipelineError):
    """An instance, or one frame of it, cannot be decoded: permanent, for the bytes will not change."""


class DetectorError(PipelineError):
    """The text detector's network is missing or is not the one that was measured."""


class RecipeError(PipelineError):
    """A recipe cannot be read, or names what is not there."""
