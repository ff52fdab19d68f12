"""Defines the one exception that stands for data that cannot be used, and keeps messages to one line."""

LONGEST = 800  # characters of a message


class DataError(ValueError):
    """Tells that a file, folder or data setting cannot work.

    The message is one line that names the file or the key, what was found there and what to do about it.
    """

    def __str__(self) -> str:
        return one_line(super().__str__())


def one_line(text: str) -> str:
    """Makes a text one line of printable characters, whatever a damaged file has put into it; cut in the middle if long."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text.replace("\n", " "))
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST // 2 - 5]} ... {shown[-LONGEST // 2 :]}"
