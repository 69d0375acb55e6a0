"""What is wrong with the files of an expert store, in one line."""


class StoreError(ValueError):
    """A file cannot be read, or is not what it was when the store was opened. The message names the file."""


class NotRowByRowError(ValueError):
    """What a model says of a token depends on other tokens than those before it."""
