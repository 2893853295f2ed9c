"""The errors of rds_lake: what went wrong, and what to do about it.

Two kinds, because a retry policy needs to know only that: a `TransientError` may pass by itself (a lost connection, a
throttled call), a `PermanentError` will not (a wrong password, an unknown column). Code below raises one of the two
and lets everything it does not understand through; nothing is swallowed.
"""


class RdsLakeError(Exception):
    """Base of all errors that rds_lake raises on purpose.

    Args:
        problem: one sentence that names the thing: table, column, key, variable, file and line.
        remedy: one sentence that says what to do.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{problem} {remedy}")


class TransientError(RdsLakeError):
    """May pass by itself: worth a retry."""


class PermanentError(RdsLakeError):
    """Will not pass by itself: a retry would fail the same way."""


class SpecError(PermanentError):
    """A table's YAML, or the source that it describes, is not what it must be."""


class ConfigError(PermanentError):
    """An environment variable or a setting is missing or wrong."""


class LocalStackError(PermanentError):
    """The laptop's own servers could not be started or stopped."""
