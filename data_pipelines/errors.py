"""The one exception that stands for data that cannot be used."""


class DataError(ValueError):
    """A file, folder or data setting that cannot work.

    The message is one line that names the file or the key, what was found there and what to do about it.
    """
