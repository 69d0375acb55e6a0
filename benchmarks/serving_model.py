"""The model that is served: a folder, or one with random weights made on the spot."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from moe_numpy.accounting import decoding
from moe_numpy.accounting.published_layers import architecture_of_layers
from moe_numpy.commands.opening import open_model
from moe_numpy.models import TransformerConfig
from moe_numpy.pretrained import PublishedConfig
from moe_numpy.pretrained.tokenizer import FILE

from .random_model import settings_of, write_random_model


@dataclass(frozen=True)
class Model:
    """A model in a folder.

    Attributes:
        folder: where it is.
        config: its sizes.
    """

    folder: Path
    config: TransformerConfig

    def most_ratio(self, texts: int) -> float | None:
        """How many times the tokens of one text so many texts can get where time is that of reading weights.

        B bytes(1) / bytes(B), where a call of B tokens reads E (1 - (1 - k / E)^B) of E experts; None where layers
        differ in more than that can tell.
        """
        try:
            architecture = architecture_of_layers(self.config)
        except ValueError:
            return None
        one, many = (decoding(architecture, batch, 1, "bf16").weight_bytes for batch in (1, texts))
        return one / many


@contextmanager
def opened(model: str, console: Console) -> Iterator[Model]:
    """A folder, a name of :data:`benchmarks.random_model.MODELS`, or a ``config.json``, with random weights.

    Raises:
        ValueError: it is none of these.
        OSError: the disk failed or is full.
    """
    if Path(model).is_dir():
        yield Model(Path(model), open_model(Path(model)).model.parts)
        return
    with random_model(settings_of(model), console) as made:
        yield made


@contextmanager
def random_model(settings: Mapping[str, Any], console: Console | None = None) -> Iterator[Model]:
    """A model with random weights, and a tokenizer, in a folder that is there during the block.

    Raises:
        ValueError: a setting is not what the family has.
        OSError: the disk failed or is full.
    """
    config = PublishedConfig(settings).transformer
    with tempfile.TemporaryDirectory(prefix="moe_numpy_serving_") as place:
        folder = Path(place) / "random"
        write_random_model(folder, settings, console)
        (folder / FILE).write_text(json.dumps(_words(settings)), encoding="utf-8")
        yield Model(folder, config)


def _words(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A tokenizer whose tokens are numbers, each with a space before it."""
    return {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "WordLevel",
            "vocab": {f"Ġ{id}": id for id in range(settings["vocab_size"])},
            "unk_token": "Ġ0",
        },
    }
