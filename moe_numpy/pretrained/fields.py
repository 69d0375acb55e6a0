"""The fields of a published ``config.json``: each is read with its type, and none is left over.

A setting that is not understood would change the numbers in silence, so a field that nothing has read is an error,
except for those that are known to change no number here.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from .errors import PretrainedError, quoted

T = TypeVar("T")
_REQUIRED = object()

# What makes no difference to logits: where a model comes from, how it was trained, how it is run.
_NO_DIFFERENCE = """
    _attn_implementation _name_or_path add_cross_attention architectures attention_dropout attn_implementation
    attn_pdrop auto_map bos_token_id chunk_size_feed_forward classifier_dropout cross_attention_hidden_size
    decoder_start_token_id do_sample dtype emb_pdrop embd_pdrop encoder_no_repeat_ngram_size eos_token_id ep_size
    experts_implementation for_llm_compressor gradient_checkpointing hidden_dropout id2label initializer_range
    is_decoder is_encoder_decoder keys_to_ignore_at_inference label2id max_length model_type moe_dropout_prob
    output_attentions output_hidden_states output_router_logits pad_token_id prefix pretraining_tp problem_type
    resid_pdrop return_dict router_aux_loss_coef router_z_loss_coef sep_token_id seq_aux
    task_specific_params temperature tokenizer_class top_p torch_dtype torchscript transformers.js_config
    transformers_version use_cache
"""
HARMLESS = frozenset(_NO_DIFFERENCE.split())


@dataclass(frozen=True)
class Limits:
    """What the tensors leave possible, so that no setting makes a model larger than its files.

    Attributes:
        axis: the length of the longest axis of a tensor.
        layers: of how many layers there are tensors.
    """

    axis: int = 2**40
    layers: int = 10_000


class Fields:
    """Settings by name, from ``config.json`` or a part of it.

    Args:
        values: the settings.
        file: where they are from, for messages.
        within: the name of the part.
        limits: of the sizes among them.
    """

    def __init__(self, values: Mapping[str, Any], file: Path, within: str = "", limits: Limits = Limits()):
        self.values, self.file, self.within, self.limits = values, file, within, limits
        self._read: set[str] = set()

    def take(self, type: Any, *names: str, default: Any = _REQUIRED) -> Any:
        """The value of the first of these names that is set, as this type; null counts as not set.

        Raises:
            PretrainedError: it is not set and has no default, is of another type, or two names have different values.
        """
        self._read.update(names)
        found = {name: self.values[name] for name in names if self.values.get(name) is not None}
        if not found:
            if default is _REQUIRED:
                raise PretrainedError(f"{self.file} lacks {self._full(names[0])}")
            return default
        values = [self._converted(name, value, type) for name, value in found.items()]
        if any(value != values[0] for value in values):
            contradiction = " and ".join(f"{self._full(name)} {value!r:.60}" for name, value in found.items())
            raise PretrainedError(f"{self.file} contradicts itself: {contradiction}")
        return values[0]

    def integer(self, *names: str, default: Any = _REQUIRED, least: int = 1) -> Any:
        """An integer of at least ``least``."""
        value = self.take(int, *names, default=default)
        if value is not None and not least <= value <= 2**40:
            wanted = f"at least {least}" if value < least else f"at most {2**40}"
            raise PretrainedError(f"{self.file}: {self._full(names[0])} must be {wanted}, got {value!r:.60}")
        return value

    def size(self, *names: str, default: Any = _REQUIRED, least: int = 1) -> Any:
        """An integer that is the length of an axis of a tensor, or less."""
        value = self.integer(*names, default=default, least=least)
        if value is not None and value > self.limits.axis:
            raise PretrainedError(
                f"{self.file}: {self._full(names[0])} is {value}, but no axis of a tensor is longer than "
                f"{self.limits.axis}"
            )
        return value

    def layers(self, *names: str) -> Any:
        """The number of layers."""
        value: int = self.integer(*names)
        if value > self.limits.layers:
            raise PretrainedError(
                f"{self.file}: {self._full(names[0])} is {value}, but there are tensors of {self.limits.layers} layers"
            )
        return value

    def number(
        self,
        *names: str,
        default: Any = _REQUIRED,
        above: float = -math.inf,
        least: float = -math.inf,
        below: float = math.inf,
    ) -> Any:
        """A number within limits, neither too large nor too small for float32."""
        value = self.take(float, *names, default=default)
        if value is None:
            return value
        if not (above < value < below and value >= least):
            limits = {"above": above, "at least": least, "below": below}
            wanted = " and ".join(f"{word} {limit:g}" for word, limit in limits.items() if abs(limit) < math.inf)
            raise PretrainedError(f"{self.file}: {self._full(names[0])} must be {wanted}, got {value}")
        if value and not 1e-37 < abs(value) < 1e37:
            raise PretrainedError(f"{self.file}: {self._full(names[0])} is {value}, which float32 cannot hold")
        return value

    def factor(self, *names: str, default: float) -> float:
        """A number that activations or scores are multiplied or divided by."""
        value: float = self.number(*names, default=default, above=0, below=1e6)
        return value

    def flag(self, *names: str, default: bool = False) -> bool:
        """True or false."""
        value: bool = self.take(bool, *names, default=default)
        return value

    def expect(self, name: str, *allowed: Any, default: Any = _REQUIRED) -> Any:
        """A setting for which only these values are supported. PretrainedError for another."""
        value = self.take(Any, name, default=default)
        if not any(type(value) is type(other) and value == other for other in allowed):
            expected = " or ".join(map(repr, allowed))
            raise PretrainedError(f"{self.file}: {self._full(name)} is {value!r:.60}, only {expected} is supported")
        return value

    def part(self, name: str) -> "Fields | None":
        """Settings within this setting; None if it is not set."""
        values = self.take(dict[str, Any], name, default=None)
        return None if values is None else Fields(values, self.file, self._full(name), self.limits)

    def skip(self, *names: str) -> None:
        """Leave these: they change no number here."""
        self._read.update(names)

    def refuse(self, name: str, why: str) -> None:
        """PretrainedError about the value of this setting."""
        raise PretrainedError(f"{self.file}: {self._full(name)} is {self.values.get(name)!r:.60}: {why}")

    def finish(self) -> None:
        """PretrainedError if a setting was not read. Null, and what makes no difference, need not be."""
        left = [name for name in self.values.keys() - self._read - HARMLESS if self.values[name] is not None]
        if left:
            names = ", ".join(quoted(name) for name in sorted(left)[:4])
            raise PretrainedError(
                f"{self.file} sets {self.within + ': ' if self.within else ''}{names}, not understood"
            )

    def _full(self, name: str) -> str:
        return f"{self.within}.{name}" if self.within else name

    def _converted(self, name: str, value: Any, type: Any) -> Any:
        try:
            return msgspec.convert(value, type)
        except msgspec.ValidationError as error:
            raise PretrainedError(f"{self.file}: {self._full(name)} is {value!r:.60}: {error}") from error
