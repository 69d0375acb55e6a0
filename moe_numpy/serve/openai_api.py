"""Answers in the form of OpenAI's interface: whole, or as the events of a stream."""

import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..inference import Choices
from .answers import Job, Piece, Token
from .served import VERSION, Served

FINGERPRINT = f"moe_numpy-{VERSION}"


class Form:
    """How the answers of one request are written.

    Args:
        served: the model.
        usage: whether a stream ends with the usage.
        logprobs: whether log-probabilities are told.
        routing: whether experts are told.
    """

    prefix: str
    whole_object: str
    chunk_object: str

    def __init__(self, served: Served, usage: bool, logprobs: bool, routing: bool):
        self.served, self.usage, self.logprobs, self.routing = served, usage, logprobs, routing
        self.id, self.created = f"{self.prefix}-{secrets.token_hex(12)}", int(time.time())
        self._begun: set[int] = set()

    def whole(self, pieces: Sequence[Piece], job: Job) -> dict[str, Any]:
        """The answer at once."""
        parts: dict[int, _Whole] = {}
        for piece in pieces:
            parts.setdefault(piece.index, _Whole()).add(piece)
        choices = [self._choice(index, each, each.finish, whole=True) for index, each in sorted(parts.items())]
        return self._document(self.whole_object, choices) | {"usage": usage_of(job)}

    def chunks(self, piece: Piece) -> Iterator[dict[str, Any]]:
        """The events of a piece."""
        index, extra = piece.index, {"usage": None} if self.usage else {}
        if index not in self._begun:
            self._begun.add(index)
            for choice in self._first(index):
                yield self._document(self.chunk_object, [choice]) | extra
        if piece.text or piece.tokens:
            choice = self._choice(index, _Whole().add(piece), None, whole=False)
            yield self._document(self.chunk_object, [choice]) | extra
        if piece.finish is not None:
            choice = self._choice(index, _Whole(), piece.finish, whole=False)
            yield self._document(self.chunk_object, [choice]) | extra

    def last(self, job: Job) -> Iterator[dict[str, Any]]:
        """The event after all answers, if it is wanted."""
        if self.usage:
            yield self._document(self.chunk_object, []) | {"usage": usage_of(job)}

    def _first(self, index: int) -> Iterator[dict[str, Any]]:
        """What comes before the text of an answer."""
        yield from ()

    def _choice(self, index: int, part: "_Whole", finish: str | None, whole: bool) -> dict[str, Any]:
        choice = {"index": index, **self._text(part, whole), "logprobs": None, "finish_reason": finish}
        if self.logprobs and (part.tokens or whole):
            choice["logprobs"] = self._logprobs(part.tokens)
        if self.routing and (part.tokens or whole):
            layers = self.served.decoder.routed_layers
            choice["routing"] = [routed_token(self.served, t.id, t.choices, layers) for t in part.tokens]
        return choice

    def _text(self, part: "_Whole", whole: bool) -> dict[str, Any]:
        raise NotImplementedError

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        raise NotImplementedError

    def _document(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.served.name,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        }


class CompletionForm(Form):
    """/v1/completions."""

    prefix, whole_object, chunk_object = "cmpl", "text_completion", "text_completion"

    def _text(self, part: "_Whole", whole: bool) -> dict[str, Any]:
        return {"text": part.text}

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        def name(id: int) -> str:
            said = self.served.tokenizer.bytes_of(id)
            try:
                return said.decode()
            except UnicodeDecodeError:
                return "bytes:" + "".join(f"\\x{byte:02x}" for byte in said)

        told = [token.logprob for token in tokens]
        return {
            "tokens": [name(token.id) for token in tokens],
            "token_logprobs": [None if of is None else of.value for of in told],
            "top_logprobs": [None if of is None else {name(id): value for id, value in of.top} for of in told],
            "text_offset": [token.offset for token in tokens],
        }


class ChatForm(Form):
    """/v1/chat/completions."""

    prefix, whole_object, chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def _first(self, index: int) -> Iterator[dict[str, Any]]:
        delta = {"role": "assistant", "content": ""}
        yield {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def _text(self, part: "_Whole", whole: bool) -> dict[str, Any]:
        if whole:
            return {"message": {"role": "assistant", "content": part.text, "refusal": None}}
        return {"delta": {"content": part.text} if part.text else {}}

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        def entry(id: int, value: float) -> dict[str, Any]:
            said = self.served.tokenizer.bytes_of(id)
            return {"token": said.decode(errors="replace"), "logprob": value, "bytes": list(said)}

        content = [
            entry(token.id, token.logprob.value) | {"top_logprobs": [entry(*each) for each in token.logprob.top]}
            for token in tokens
            if token.logprob is not None
        ]
        return {"content": content, "refusal": None}


@dataclass
class _Whole:
    """The pieces of one answer, joined."""

    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    finish: str | None = None

    def add(self, piece: Piece) -> "_Whole":
        self.text += piece.text
        self.tokens += piece.tokens
        self.finish = piece.finish or self.finish
        return self


def usage_of(job: Job) -> dict[str, Any]:
    """Tokens of a request: of its prompts, those drawn, and those of the prompts that were known already."""
    return {
        "prompt_tokens": job.prompt_tokens,
        "completion_tokens": job.completion_tokens,
        "total_tokens": job.prompt_tokens + job.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": job.cached_tokens},
    }


def routed_token(served: Served, id: int, choices: Choices | None, layers: Sequence[int]) -> dict[str, Any]:
    """A token with its experts and gate weights, a list for each layer with a router."""
    of = [(choices or {})[layer] for layer in layers]
    return {
        "id": id,
        "token": served.tokenizer.bytes_of(id).decode(errors="replace"),
        "experts": [experts.tolist() for experts, _ in of],
        "gates": [[round(float(gate), 6) for gate in gates] for _, gates in of],
    }


def model_document(served: Served) -> dict[str, Any]:
    """The model, as /v1/models lists it."""
    return {"id": served.name, "object": "model", "created": served.created, "owned_by": "moe_numpy"}
