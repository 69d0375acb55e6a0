"""What clients may ask for: the fields, their types and ranges. The same classes validate and describe themselves.

Fields are those of OpenAI's interface, https://platform.openai.com/docs/api-reference, and one of ours: ``routing``.
Null stands for a field that is not there. A field that would change the answer and is not supported is refused.
"""

import re
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from .errors import BAD, ApiError

MOST_ANSWERS = 16  # to a prompt
MOST_PROMPTS = 16
MOST_STOPS = 4
LONGEST_STOP = 256
MOST_LOGPROBS = 20
DEFAULT_TOKENS = 16  # of a completion; a chat goes on until its end
_SHORT = 4096  # characters or tokens, which are encoded in some milliseconds at most

Natural = Annotated[int, Meta(ge=0, le=2**31 - 1)]
StopString = Annotated[str, Meta(min_length=1, max_length=LONGEST_STOP)]
Zero = Annotated[float, Meta(ge=0, le=0, description="Penalties are not supported: 0.")]
Bias = Annotated[float, Meta(ge=-100, le=100)]
T = TypeVar("T")


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    """Of a stream: whether one more event tells the usage, before the end."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Generation(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What completions and chats have in common."""

    model: Annotated[str, Meta(description="As /v1/models names it.")]
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    n: Annotated[int, Meta(ge=1, le=MOST_ANSWERS)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: StopString | Annotated[list[StopString], Meta(max_length=MOST_STOPS)] | None = None
    logit_bias: dict[Natural, Bias] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    routing: (
        Annotated[bool, Meta(description="Tell the experts and gate weights of each token, by sparse layer.")] | None
    ) = None
    frequency_penalty: Zero | None = None
    presence_penalty: Zero | None = None
    user: str | None = None

    @property
    def answers(self) -> int:
        """To each prompt."""
        return self.n or 1

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def is_short(self) -> bool:
        """Whether it becomes tokens at once. A chat does not: its template is a program."""
        return False

    @property
    def tells_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)


class CompletionRequest(Generation, forbid_unknown_fields=True, kw_only=True):
    """POST /v1/completions: text to be continued."""

    prompt: (
        Annotated[str, Meta(min_length=1)]
        | Annotated[
            list[Annotated[str, Meta(min_length=1)] | Natural | Annotated[list[Natural], Meta(min_length=1)]],
            Meta(min_length=1),
        ]
    )
    max_tokens: Natural | None = None
    logprobs: Annotated[int, Meta(ge=0, le=MOST_LOGPROBS)] | None = None
    echo: bool | None = None

    @property
    def is_short(self) -> bool:
        """Whether its prompts become tokens at once."""
        given = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        return sum(1 if isinstance(each, int) else len(each) for each in given) <= _SHORT

    def prompts(self) -> list[str | list[int]]:
        """Each text, or list of token ids. ApiError if kinds are mixed, or if there are too many."""
        given: Any = self.prompt
        if isinstance(given, str):
            return [given]
        kinds = {type(each) for each in given}
        if len(kinds) > 1:
            raise ApiError(BAD, "prompt must be all texts, all token ids, or all lists of token ids", param="prompt")
        prompts = [given] if kinds == {int} else given
        if len(prompts) > MOST_PROMPTS:
            raise ApiError(BAD, f"at most {MOST_PROMPTS} prompts in a request, got {len(prompts)}", param="prompt")
        return prompts


class TextPart(msgspec.Struct, forbid_unknown_fields=True):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What somebody said. The last five fields are there in answers that clients send back."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[TextPart], Meta(min_length=1)]
    name: str | None = None
    reasoning_content: str | None = None
    refusal: None = None
    tool_calls: Annotated[list[Any], Meta(max_length=0)] | None = None
    function_call: None = None
    audio: None = None
    annotations: Annotated[list[Any], Meta(max_length=0)] | None = None

    @property
    def text(self) -> str:
        """The content."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ResponseFormat(msgspec.Struct, forbid_unknown_fields=True):
    """Plain text: no other format is supported."""

    type: Literal["text"]


class ChatRequest(Generation, forbid_unknown_fields=True, kw_only=True):
    """POST /v1/chat/completions: a chat to be answered."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_tokens: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=MOST_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Any], Meta(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None


class ExpertsOff(msgspec.Struct, forbid_unknown_fields=True):
    """Experts of a layer that no token may choose."""

    layer: Natural
    experts: list[Natural]


class Pin(msgspec.Struct, forbid_unknown_fields=True):
    """A token, by its position, that chooses this expert first."""

    layer: Natural
    position: Natural
    expert: Natural


class TopKOf(msgspec.Struct, forbid_unknown_fields=True):
    """How many experts the tokens choose in a layer."""

    layer: Natural
    k: Annotated[int, Meta(ge=1, le=2**31 - 1)]


class LookRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """POST /microscope/api/look: a text to be read token by token, and continued, with routers told otherwise."""

    text: Annotated[str, Meta(min_length=1)]
    off: list[ExpertsOff] = []
    pinned: list[Pin] = []
    top_k: list[TopKOf] = []
    tokens: Annotated[int, Meta(ge=0, le=2**31 - 1, description="To write after the text.")] = 0
    temperature: Annotated[float, Meta(ge=0, le=2)] = 0.0
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0


def _with_integers(value: Any) -> Any:
    """JSON has one kind of number: 3.0 is 3."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_with_integers(each) for each in value]
    if isinstance(value, dict):
        return {name: _with_integers(each) for name, each in value.items()}
    return value


_AT = re.compile(r"^(?P<what>.*?) - at (?:`key` in )?`\$\.?(?P<path>.*)`$", re.DOTALL)
_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<name>.*?)`", re.DOTALL)


def decoded(body: bytes, kind: type[T]) -> T:
    """A request from its JSON. ApiError with what is wrong, and in which field."""
    try:
        return msgspec.convert(_with_integers(msgspec.json.decode(body)), kind, str_keys=True)
    except msgspec.ValidationError as error:
        said = str(error)
        at, unknown = _AT.match(said), _UNKNOWN.match(said)
        field = (at["path"] if at else "") or None
        if unknown:
            field = ".".join(name for name in (field, unknown["name"]) if name)
            raise ApiError(BAD, f"{field} is not a field of this request", param=field, code="unknown_field") from None
        message = at["what"] if at else said
        raise ApiError(BAD, f"{field}: {message}" if field else message, param=field, code="invalid_value") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(BAD, f"the body is not JSON in UTF-8: {error}", code="invalid_json") from None
