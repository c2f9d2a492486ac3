"""What can go wrong with a model; each message names the thing, what was expected and what was found."""


class ModelError(Exception):
    """Base of every error that models raise on purpose."""


class PackageError(ModelError):
    """A model package is incomplete, altered, or made for another task, format or input."""


class InferenceError(ModelError):
    """A network gave what no network may give: logits that are not finite."""
