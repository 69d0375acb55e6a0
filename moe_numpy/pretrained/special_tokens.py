"""Which tokens of a published model have a role: begin, end, padding; and which ids end a text."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import PretrainedError
from .small_files import read_object

ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
CONFIG = "tokenizer_config.json"
MAP = "special_tokens_map.json"


def special_tokens(folder: Path) -> dict[str, str]:
    """The text of each role that has a token, as ``{"eos_token": "<|im_end|>"}``; roles of one model included.

    From tokenizer_config.json; special_tokens_map.json has the last word where the former lists no
    ``added_tokens_decoder``, as in transformers.

    Raises:
        PretrainedError: a token is neither a string nor an object with ``content``.
    """
    config = read_object(folder / CONFIG)
    found = _tokens(config, folder / CONFIG)
    if "added_tokens_decoder" not in config:
        found |= _tokens(read_object(folder / MAP), folder / MAP)
    return {role: token for role, token in found.items() if token is not None}


def end_ids(folder: Path, id_of: Callable[[str], int | None]) -> frozenset[int]:
    """The ids that end a text: ``eos_token_id`` of generation_config.json, else of config.json, else the eos_token's.

    Args:
        folder: of the model.
        id_of: the id of a token.

    Raises:
        PretrainedError: ``eos_token_id`` is neither an id nor a list of ids, or eos_token is not in the vocabulary.
    """
    for path in (folder / "generation_config.json", folder / "config.json"):
        value = read_object(path).get("eos_token_id")
        if value is None:
            continue
        ids = value if isinstance(value, list) else [value]
        if not all(type(id) is int and id >= 0 for id in ids):
            raise PretrainedError(f"{path}: eos_token_id must be an id or a list of ids, got {value!r:.200}")
        return frozenset(ids)
    token = special_tokens(folder).get("eos_token")
    if token is None:
        return frozenset()
    id = id_of(token)
    if id is None:
        raise PretrainedError(f"{folder / CONFIG}: eos_token {token!r:.200} is not in the vocabulary")
    return frozenset([id])


def _tokens(values: dict[str, Any], path: Path) -> dict[str, str | None]:
    """The roles that a file gives tokens: the usual ones, and its own, such as ``image_token``."""
    own = {key: value for key, value in values.items() if key.endswith("_token") and isinstance(value, str | dict)}
    extra = values.get("extra_special_tokens")
    usual = {role: values[role] for role in ROLES if role in values}
    given = own | (extra if isinstance(extra, dict) else {}) | usual
    return {role: _text(value, role, path) for role, value in given.items()}


def _text(value: Any, role: str, path: Path) -> str | None:
    text = value.get("content") if isinstance(value, dict) else value
    if not (isinstance(text, str) or value is None):
        raise PretrainedError(f"{path}: {role} must be a string or an object with a string content, got {value!r:.200}")
    return text
