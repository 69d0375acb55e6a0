"""The model that is served: its name, and how a request becomes tokens."""

import time
from collections.abc import Sequence
from pathlib import Path

from ..inference import Decoder
from ..models.text import Tokenizer
from ..pretrained import PublishedTokenizer
from ..pretrained.chat import ChatTemplate
from ..pretrained.errors import PretrainedError
from ..training.versions import versions
from .answers import Ask
from .errors import BAD, NOT_FOUND, ApiError
from .requests import DEFAULT_TOKENS, ChatRequest, CompletionRequest, Generation, Message
from .sampling import Sampling

VERSION = versions().get("moe_numpy", "unknown")


class Served:
    """A model under a name.

    Args:
        name: as clients call it.
        decoder: the model.
        tokenizer: of its text.
        text_folder: of a published tokenizer, which may have a chat template; None where tokens are bytes.

    Attributes:
        created: when it was opened, in seconds since 1970.
        template: of chats; None if there is none.
    """

    def __init__(self, name: str, decoder: Decoder, tokenizer: Tokenizer, text_folder: Path | None = None):
        self.name, self.decoder, self.tokenizer = name, decoder, tokenizer
        self.created = int(time.time())
        self.template = None if text_folder is None else _template(text_folder)

    @property
    def context(self) -> int:
        """The longest text, in tokens."""
        return self.decoder.parts.context

    @property
    def vocab_size(self) -> int:
        """V of the model."""
        return self.decoder.parts.vocab_size

    def require(self, name: str) -> None:
        """ApiError unless this is the model."""
        if name != self.name:
            message = f"there is no model {name!r:.200}; this server has {self.name!r}"
            raise ApiError(NOT_FOUND, message, param="model", code="model_not_found")

    def completion(self, request: CompletionRequest) -> list[Ask]:
        """What a completion asks for. ApiError if the model cannot."""
        self.require(request.model)
        asks = []
        most = DEFAULT_TOKENS if request.max_tokens is None else request.max_tokens
        for prompt in request.prompts():
            ids = self.encoded(prompt, "prompt") if isinstance(prompt, str) else prompt
            text = prompt if isinstance(prompt, str) else self.tokenizer.decode(self.fitting(ids, "prompt"))
            echo = text if request.echo else None
            asks.append(self._ask(request, ids, "prompt", most, request.logprobs, echo))
        return asks

    def chat(self, request: ChatRequest) -> list[Ask]:
        """What a chat asks for. ApiError if the model cannot, or the template refuses."""
        self.require(request.model)
        most = request.max_completion_tokens or request.max_tokens or self.context
        told = request.logprobs or request.top_logprobs
        logprobs = (request.top_logprobs or 0) if told else None
        return [self._ask(request, self._chat_ids(request.messages), "messages", most, logprobs, None)]

    def encoded(self, text: str, param: str) -> list[int]:
        """The tokens of a text. ApiError if it has none, or is not text."""
        try:
            return self.fitting(self.tokenizer.encode(text), param)
        except ValueError as error:
            raise ApiError(BAD, f"{param}: {error}", param=param) from None

    def fitting(self, ids: Sequence[int], param: str) -> list[int]:
        """The same tokens. ApiError if there are none, one that the model does not have, or more than its context."""
        if not ids:
            raise ApiError(BAD, f"{param} has no tokens; give at least one to continue", param=param)
        if len(ids) > self.context:
            message = f"{param} has {len(ids):,} tokens, the context has {self.context:,}"
            raise ApiError(BAD, message, param=param, code="context_length_exceeded")
        if max(ids) >= self.vocab_size:
            message = f"{param} has token {max(ids)}, the model has {self.vocab_size:,}"
            raise ApiError(BAD, message, param=param, code="invalid_value")
        return list(ids)

    def _chat_ids(self, messages: Sequence[Message]) -> list[int]:
        """A chat as its template writes it; without one, the contents in their order, a line each."""
        if self.template is None or not isinstance(self.tokenizer, PublishedTokenizer):
            return self.encoded("\n".join(message.text for message in messages), "messages")
        said = [
            {"role": m.role, "content": m.text, "name": m.name, "reasoning_content": m.reasoning_content}
            for m in messages
        ]
        try:
            text = self.template.render(said)
            return self.fitting(self.tokenizer.encode_plain(text), "messages")
        except ValueError as error:
            raise ApiError(BAD, f"messages: {error}", param="messages") from None

    def _ask(
        self, request: Generation, ids: list[int], param: str, most: int, logprobs: int | None, echo: str | None
    ) -> Ask:
        bias = request.logit_bias or {}
        if max(bias, default=0) >= self.vocab_size:
            message = f"logit_bias has token {max(bias)}, the model has {self.vocab_size:,}"
            raise ApiError(BAD, message, param="logit_bias", code="invalid_value")
        room = self.context - len(ids)
        if most and not room:
            message = f"{param} has {len(ids):,} tokens, which leaves no room in the context of {self.context:,}"
            raise ApiError(BAD, message, param=param, code="context_length_exceeded")
        sampling = Sampling(
            temperature=1.0 if request.temperature is None else request.temperature,
            top_p=1.0 if request.top_p is None else request.top_p,
            bias=bias,
            seed=request.seed,
        )
        return Ask(
            tuple(ids), min(most, room), request.answers, sampling, request.stops, logprobs, bool(request.routing), echo
        )


def _template(folder: Path) -> ChatTemplate | None:
    try:
        return ChatTemplate.open(folder)
    except PretrainedError:
        return None
