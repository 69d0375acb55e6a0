"""What is wrong with a published model, in one line."""


class PretrainedError(ValueError):
    """A published model cannot be read or written. The message is one line that names the file and the thing."""

    def __init__(self, message: str):
        super().__init__("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message))


def quoted(name: str) -> str:
    """A name from a file in quotes; a long one without its middle."""
    return repr(name if len(name) <= 200 else f"{name[:120]}…{name[-60:]}")
