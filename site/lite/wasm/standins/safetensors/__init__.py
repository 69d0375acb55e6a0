"""What safetensors is to modules that are imported and not used: the WebAssembly Python of the tests has none."""


class SafetensorError(Exception):
    """A file of another kind."""
