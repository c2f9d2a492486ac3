"""What can go wrong in the pipeline; each message names the thing, what was expected and what was found."""


class PipelineError(Exception):
    """Base of every error the pipeline raises on purpose."""


class DecodeError(PipelineError):
    """An instance, or one frame of it, cannot be decoded: permanent, for the bytes will not change."""


class DetectorError(PipelineError):
    """The text detector is missing, is not the one that was named, or has ended or fallen silent."""


class RecipeError(PipelineError):
    """A recipe cannot be read, or names what is not there."""
