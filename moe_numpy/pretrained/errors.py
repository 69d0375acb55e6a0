"""What reading a published model raises."""


class PretrainedError(ValueError):
    """A published model that cannot be read; the message names the file and the fault."""
