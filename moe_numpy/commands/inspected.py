"""What ``inspect`` looks at: a run or a published model, the text to route, and one text token by token."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..instruments.routed_text import TextWindow
from ..instruments.text_windows import LONGEST_WINDOW, text_windows
from ..models import Transformer
from ..models.text import ByteTokenizer, Tokenizer
from ..pretrained import PretrainedError, PublishedTokenizer, from_pretrained, is_published
from ..training import Run, default_corpus
from ..training.encoding import pieces
from ..training.evaluation import WINDOWS_PER_DOMAIN
from ..training.pictures import Pictures, digits
from ..training.user_text import read_texts
from .figures import NO_HISTORY, LoadHistory, load_history

TOKENS = 16_384
_RUN_BATCH = 32  # windows, as the run was evaluated: which bytes an expert has no place for depends on it
_BATCH_TOKENS = 4096  # each expert's weights are read from the files once a batch
_BATCH_BYTES = 1 << 28  # of logits and scores of all layers
_SENTENCE = "The list has 12 items.\ndef add(a, b):\n    return a + b\n17 + 25 = 42\n"


@dataclass(frozen=True, eq=False)
class Inspected:
    """A model to look into, and what to look at.

    Attributes:
        folder: of the model.
        model: it has at least one router.
        tokenizer: of its text.
        domains: names of the kinds of text.
        windows: of text to route.
        batch_size: windows at once.
        sentence: the tokens of one text.
        step: of a run; None for a published model.
        history: steps, loads and splits of a run, all empty without any.
        pictures: beside the text; None of a model that was trained without.
    """

    folder: Path
    model: Transformer
    tokenizer: Tokenizer
    domains: list[str]
    windows: list[TextWindow]
    batch_size: int
    sentence: tuple[int, ...]
    step: int | None = None
    history: LoadHistory = NO_HISTORY
    pictures: Pictures | None = None

    @property
    def is_run(self) -> bool:
        """Whether it was trained here."""
        return self.step is not None

    @property
    def is_bytes(self) -> bool:
        """Whether its tokens are bytes, as those of a model made here."""
        return isinstance(self.tokenizer, ByteTokenizer)

    @property
    def unit(self) -> str:
        """What a token is called."""
        return "byte" if self.is_bytes else "token"


def open_inspected(
    folder: Path, text: Sequence[Path], tokens: int | None, sentence: str | None, layer: int | None, step: int | None
) -> Inspected:
    """Open a run or a published model and read the text.

    Raises:
        ValueError: it cannot be opened, has no experts to look at, or the text has no tokens of the model.
        OSError: a file cannot be read.
    """
    if is_published(folder):
        if step is not None:
            raise ValueError(f"--step {step}: {folder} is a published model, which has no checkpoints")
        return _open_published(folder, text, tokens or TOKENS, sentence, layer)
    return _open_run(folder, text, tokens, sentence, layer, step)


def _open_run(
    folder: Path, text: Sequence[Path], tokens: int | None, sentence: str | None, layer: int | None, step: int | None
) -> Inspected:
    run = Run.open(folder)
    checkpoint = run.verified(step)
    config = run.model_config
    if not config.routed_layers:
        kind = "has Soft MoE layers: every expert takes a part of every byte, and none is chosen"
        raise ValueError(f"{folder} {kind if config.num_experts else 'is dense: it has no experts to inspect'}")
    _require_layer(layer, config.routed_layers)
    tokenizer = run.tokenizer()
    if text:
        domains, texts = _texts(text)
    else:
        corpus = run.corpus()
        run.require_text(corpus, checkpoint)
        domains = [domain.name for domain in corpus.domains]
    history, model = load_history(run), run.model_of(checkpoint)
    length = min(config.context, LONGEST_WINDOW)
    if text:
        windows = text_windows(texts, _encoder(tokenizer, model), tokens=tokens or TOKENS, length=length)
    elif tokens is None:
        held_out = corpus.validation_windows(config.context, limit=WINDOWS_PER_DOMAIN)
        windows = [TextWindow(w, int(d)) for w, d in zip(held_out.tokens, held_out.domain, strict=True)]
        length = config.context
    else:
        held = [domain.validation for domain in corpus.domains]
        windows = text_windows(held, np.ndarray.tolist, tokens=tokens, length=length)
    ids = _sentence(tokenizer, model, sentence, config.context)
    at_once = _RUN_BATCH if isinstance(tokenizer, ByteTokenizer) else _batch_size(model, length)
    pictures = digits() if run.training_config.image_batch_size else None
    return Inspected(folder, model, tokenizer, domains, windows, at_once, ids, checkpoint.step, history, pictures)


def _open_published(
    folder: Path, text: Sequence[Path], tokens: int, sentence: str | None, layer: int | None
) -> Inspected:
    model = from_pretrained(folder)
    if not model.routed_layers:
        raise ValueError(f"{folder} is dense: it has no experts to inspect")
    _require_layer(layer, model.routed_layers)
    tokenizer = _tokenizer(folder)
    domains, texts = _texts(text)
    lead = _lead(tokenizer, texts[0][:100])
    _require_known(lead, model, tokenizer)
    window = min(LONGEST_WINDOW, model.context)
    if len(lead) >= window:
        raise ValueError(f"{tokenizer.path} begins a text with {len(lead)} tokens, a window has {window}")
    length = window - len(lead)
    windows = text_windows(texts, _encoder(tokenizer, model), tokens=tokens, length=length, lead=lead)
    if not windows:
        raise ValueError("the text has no tokens")
    ids = _sentence(tokenizer, model, sentence, model.context)
    return Inspected(folder, model, tokenizer, domains, windows, _batch_size(model, window), ids)


def _batch_size(model: Transformer, length: int) -> int:
    """How many windows share a batch."""
    scores = 2 * 4 * len(model.routed_layers) * model.num_routes  # bytes per token, with the logits
    return max(min(_BATCH_TOKENS, _BATCH_BYTES // scores) // length, 1)


def _encoder(tokenizer: Tokenizer, model: Transformer) -> Callable[[str], list[int]]:
    """A function that encodes a text without the special tokens around it, and refuses ids beyond the model's."""
    if not isinstance(tokenizer, PublishedTokenizer):
        return tokenizer.encode

    def encode(text: str) -> list[int]:
        ids = [id for piece in pieces(text) for id in tokenizer.encode_plain(piece)]
        _require_known(ids, model, tokenizer)
        return ids

    return encode


def _sentence(tokenizer: Tokenizer, model: Transformer, sentence: str | None, context: int) -> tuple[int, ...]:
    """The tokens of the text to show token by token; the default one is cut to the context."""
    ids = tokenizer.encode(_SENTENCE)[:context] if sentence is None else tokenizer.encode(sentence)
    if isinstance(tokenizer, PublishedTokenizer):
        _require_known(ids, model, tokenizer)
    return tuple(ids)


def _tokenizer(folder: Path) -> PublishedTokenizer:
    try:
        return PublishedTokenizer.open(folder)
    except PretrainedError as error:
        if (folder / "tokenizer.json").exists():
            raise
        raise PretrainedError(f"{error}; without it a text has no token ids") from error


def _texts(paths: Sequence[Path]) -> tuple[list[str], list[str]]:
    """Names and texts of the domains: the given files and folders, or the built-in text that is not trained on."""
    if paths:
        read = read_texts(paths, min_bytes=1, use="route")
        return [text.name for text in read], [text.content.decode() for text in read]
    domains = default_corpus().domains
    return [d.name for d in domains], [d.validation.tobytes().decode(errors="ignore") for d in domains]


def _lead(tokenizer: PublishedTokenizer, text: str) -> list[int]:
    """The ids that the tokenizer puts before a text."""
    bare, full = tokenizer.encode_plain(text), tokenizer.encode(text)
    starts = (i for i in range(len(full) - len(bare) + 1) if full[i : i + len(bare)] == bare)
    return full[: next(starts, 0)]


def _require_known(ids: Sequence[int], model: Transformer, tokenizer: PublishedTokenizer) -> None:
    """ValueError for an id that the model has no row for."""
    largest = max(ids, default=0)
    if largest >= model.vocab_size:
        raise ValueError(
            f"{tokenizer.path} makes {tokenizer.name(largest)} token {largest:,} of the text, the model has only "
            f"{model.vocab_size:,} tokens"
        )


def _require_layer(layer: int | None, layers: list[int]) -> None:
    if layer is not None and layer not in layers:
        raise ValueError(f"--layer must be one of the layers with experts, {layers}, got {layer}")
