"""The language model of a model of text and images: its settings in ``text_config``, and those to write alone."""

from collections.abc import Callable, Mapping
from typing import Any

from ...models import TransformerConfig
from ..fields import Fields

_POSITIONS = {"mrope_section", "mrope_interleaved"}  # of images: in text all three coordinates are alike
_ROPE = ("rope_parameters", "rope_scaling")


def language_model(
    build: Callable[[Fields], TransformerConfig], *others: str, tied: bool | None = None
) -> Callable[[Fields], TransformerConfig]:
    """What reads ``text_config`` with ``build``.

    Args:
        build: the reader of the language model alone.
        others: settings beside ``text_config`` that change no text.
        tied: the default of ``tie_word_embeddings`` beside ``text_config``, which then decides; None where both agree.
    """

    def transformer(fields: Fields) -> TransformerConfig:
        part = fields.part("text_config")
        if part is None:
            fields.refuse("text_config", "a model of text and images has its language model there")
        assert part is not None
        fields.skip("vision_config", *others)
        values = _of_text(part.values)
        if tied is not None:
            values["tie_word_embeddings"] = fields.flag("tie_word_embeddings", default=tied)
        text = Fields(values, part.file, part.within, part.limits)
        model = build(text)
        if fields.flag("tie_word_embeddings", default=model.tied) != model.tied:
            fields.refuse("tie_word_embeddings", f"text_config makes it {model.tied}")
        text.finish()
        return model

    return transformer


def settings_alone(
    model_type: str, architecture: str, *, tied: bool | None = None, base: float | None = None, **defaults: Any
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """What makes the settings to write: those of ``text_config``, as a model of this type; ``tied`` as above.

    ``base``, of the rotation, and ``defaults`` are those of the model of text and images, where they differ.
    """

    def written(values: Mapping[str, Any]) -> dict[str, Any]:
        text = {
            **defaults,
            **_of_text(values["text_config"]),
            "model_type": model_type,
            "architectures": [architecture],
        }
        if base is not None and not any(part.get("rope_theta") for part in (text, *(text.get(n) or {} for n in _ROPE))):
            text["rope_theta"] = base
        if tied is not None:
            text["tie_word_embeddings"] = values.get("tie_word_embeddings", tied)
        return text

    return written


def _of_text(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without those of the positions in an image."""
    kept = dict(values)
    for name in _ROPE:
        if isinstance(kept.get(name), dict):
            kept[name] = {key: value for key, value in kept[name].items() if key not in _POSITIONS}
    return kept
