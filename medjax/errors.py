"""Defines the one exception that stands for a mistake of the user's."""

from data_pipelines.errors import one_line


class UserError(ValueError):
    """Tells the user that what was asked for cannot work.

    The message is one line that names the key or file, what was found there and what to do about it. launch.py
    prints it without a traceback and exits with status 2.
    """

    def __str__(self) -> str:
        return one_line(super().__str__())
