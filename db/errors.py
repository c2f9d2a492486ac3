"""What can go wrong in the database; each message names the thing, what was found and what to do."""


class DatabaseError(Exception):
    """Base of every error this package raises on purpose; the command line prints it as one line."""


class SchemaError(DatabaseError):
    """The database's tables are not the ones this version works with."""


class LostClaimError(DatabaseError):
    """The job was taken over: what this process did for it must not be stored."""
