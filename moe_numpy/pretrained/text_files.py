"""The files of a published folder that are about text: the tokenizer, and what belongs to it."""

from pathlib import Path

from .small_files import read_bytes
from .tokenizer import FILE

TEXT_FILES = (
    FILE,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
    "added_tokens.json",
)
_LARGEST = 512 << 20  # bytes of a tokenizer


def text_files(folder: Path) -> dict[str, bytes]:
    """The contents of those that a folder has, by name. PretrainedError for one that cannot be read."""
    return {name: read_bytes(folder / name, _LARGEST) for name in TEXT_FILES if (folder / name).is_file()}
