"""What can go wrong in the node; each message names the thing, what was expected, found, and what to do."""


class NodeError(Exception):
    """Base of every error the node raises on purpose; the command line prints it as one line."""


class SettingsError(NodeError):
    """The settings cannot be used."""


class StorageError(NodeError):
    """The file store cannot keep or give back bytes."""


class StorageFullError(StorageError):
    """Too little room is left; the peer is answered 0xA700."""


class ReceivedObjectError(NodeError):
    """What a peer sent cannot be kept.

    Attributes
    ----------
    status
        The C-STORE status it is answered with (PS3.4 B.2.3).
    """

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class SendError(NodeError):
    """A peer could not be reached or broke off: transient, tried again."""


class RefusedError(NodeError):
    """A peer answered, and will not take this object in this form: permanent for the form."""


class NotFoundError(NodeError):
    """A command named something the database does not hold."""


class InvalidResultError(NodeError):
    """An object of ours is not what its IOD demands; it is never sent."""
