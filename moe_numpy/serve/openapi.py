"""The description of the server at /openapi.json: OpenAPI 3.1, made of the classes that validate requests.

https://spec.openapis.org/oas/v3.1.0
"""

from typing import Any

import msgspec

from .requests import MOST_PROMPTS, ChatRequest, CompletionRequest, LookRequest
from .served import VERSION, Served

_TEMPLATE = "#/components/schemas/{name}"
_TEXT, _WHOLE, _NUMBER = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "number"}
_ERRORS = {
    400: "Wrong JSON, a field that is wrong or unknown, or a prompt longer than the context.",
    401: "The key is missing or wrong.",
    404: "There is no such model.",
    405: "Another method than this.",
    408: "The body came too slowly.",
    413: "The body is too large.",
    415: "The body is not application/json.",
    429: "The queue is full; Retry-After says when to come again.",
    500: "The server failed.",
    503: "The server is stopping.",
}
_OF_POST = (400, 404, 408, 413, 415, 429, 500, 503)


def openapi_document(served: Served, needs_key: bool) -> dict[str, Any]:
    """The description of a server with this model.

    Args:
        served: the model, whose name and tokens are the only ones that requests may have.
        needs_key: whether clients need a key.
    """
    _, schemas = msgspec.json.schema_components([CompletionRequest, ChatRequest, LookRequest], ref_template=_TEMPLATE)
    token = {"type": "integer", "minimum": 0, "maximum": served.vocab_size - 1}
    for name in ("CompletionRequest", "ChatRequest"):
        fields = schemas[name]["properties"]
        fields["model"]["enum"] = [served.name]
        for kind in fields["logit_bias"]["anyOf"]:
            if kind["type"] == "object":
                kind["propertyNames"] = {"pattern": _up_to(served.vocab_size - 1)}
    schemas["CompletionRequest"]["properties"]["prompt"] = _prompt(token)
    schemas |= _answers()
    completion, chat = _ref("Completion"), _ref("ChatCompletion")
    security: dict[str, Any] = {"security": [{"key": []}]} if needs_key else {}
    errors = (401,) if needs_key else ()
    paths = {
        "/health": {"get": _operation("Whether the server runs.", _ref("Health"))},
        "/metrics": {"get": _operation("Metrics for Prometheus.", _TEXT, "text/plain", errors=errors) | security},
        "/openapi.json": {"get": _operation("This description.", {"type": "object"})},
        "/v1/models": {"get": _operation("The model that is served.", _ref("Models"), errors=errors) | security},
        "/v1/models/{name}": {
            "parameters": [{"name": "name", "in": "path", "required": True, "schema": {"enum": [served.name]}}],
            "get": _operation("The model.", _ref("Model"), errors=(*errors, 404)) | security,
        },
        "/v1/completions": {"post": _posted("Continue texts.", "CompletionRequest", completion, errors) | security},
        "/v1/chat/completions": {"post": _posted("Answer a chat.", "ChatRequest", chat, errors) | security},
        "/microscope/api/model": {
            "get": _operation("How the model is built.", {"type": "object"}, errors=errors) | security
        },
        "/microscope/api/look": {
            "post": _posted("Read a text token by token.", "LookRequest", _ref("Look"), errors, stream=False) | security
        },
    }
    components: dict[str, Any] = {"schemas": schemas}
    if needs_key:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    about = {"title": "moe_numpy", "version": VERSION, "description": f"Serves {served.name}."}
    return {"openapi": "3.1.0", "info": about, "paths": paths, "components": components}


def _prompt(token: dict[str, Any]) -> dict[str, Any]:
    """A text, texts, tokens, or lists of tokens."""
    text, tokens = {"type": "string", "minLength": 1}, {"type": "array", "minItems": 1, "items": token}
    several = {"type": "array", "minItems": 1, "maxItems": MOST_PROMPTS}
    return {"anyOf": [text, tokens, several | {"items": text}, several | {"items": tokens}]}


def _operation(
    summary: str, schema: dict[str, Any], kind: str = "application/json", errors: tuple[int, ...] = ()
) -> dict[str, Any]:
    answers: dict[str, Any] = {"200": {"description": "The answer.", "content": {kind: {"schema": schema}}}}
    for status in sorted({*errors, 405, 500}):
        content = {"application/json": {"schema": _ref("Error")}}
        answers[str(status)] = {"description": _ERRORS[status], "content": content}
    return {"summary": summary, "responses": answers}


def _posted(
    summary: str, request: str, answer: dict[str, Any], errors: tuple[int, ...], stream: bool = True
) -> dict[str, Any]:
    operation = _operation(summary, answer, errors=(*errors, *_OF_POST))
    body = {"required": True, "content": {"application/json": {"schema": _ref(request)}}}
    if stream:
        operation["responses"]["200"]["content"]["text/event-stream"] = {"schema": _object(data=_TEXT)}  # each event
    return operation | {"requestBody": body}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": _TEMPLATE.format(name=name)}


def _object(**fields: Any) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": list(fields)}


def _list(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of}


def _or_null(of: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [of, {"type": "null"}]}


def _answers() -> dict[str, Any]:
    """What the server sends."""
    finish, logprobs = {"enum": ["stop", "length"]}, _or_null({"type": "object"})
    message = _object(role={"const": "assistant"}, content=_TEXT, refusal={"type": "null"})
    common = {"id": _TEXT, "created": _WHOLE, "model": _TEXT, "system_fingerprint": _TEXT, "usage": _ref("Usage")}
    routed = {"id": _WHOLE, "token": _TEXT, "experts": _list(_list(_WHOLE)), "gates": _list(_list(_NUMBER))}
    choice = {"index": _WHOLE, "logprobs": logprobs, "finish_reason": finish}

    def choices(**own: Any) -> dict[str, Any]:
        made = _object(**choice, **own)
        made["properties"]["routing"] = _list(_ref("RoutedToken"))
        return _list(made)

    error = _object(message=_TEXT, type=_TEXT, param=_or_null(_TEXT), code=_or_null(_TEXT))
    return {
        "Error": _object(error=error),
        "Health": _object(status={"const": "ok"}, slots=_WHOLE, slots_busy=_WHOLE),
        "Model": _object(id=_TEXT, object={"const": "model"}, created=_WHOLE, owned_by=_TEXT),
        "Models": _object(object={"const": "list"}, data=_list(_ref("Model"))),
        "Usage": _object(prompt_tokens=_WHOLE, completion_tokens=_WHOLE, total_tokens=_WHOLE),
        "RoutedToken": _object(**routed),
        "Completion": _object(**common, object={"const": "text_completion"}, choices=choices(text=_TEXT)),
        "ChatCompletion": _object(**common, object={"const": "chat.completion"}, choices=choices(message=message)),
        "Look": _object(
            sparse_layers=_list(_WHOLE),
            prompt_tokens=_WHOLE,
            mean_loss=_or_null(_NUMBER),
            text=_TEXT,
            tokens=_list(_object(**routed, loss=_or_null(_NUMBER))),
        ),
    }


def _up_to(largest: int) -> str:
    """A regular expression for the decimal numbers from 0 to ``largest``, without leading zeros."""
    digits = str(largest)
    shorter = ["0", *(rf"[1-9][0-9]{{{n}}}" for n in range(len(digits) - 1))]
    same = [digits]
    for i, digit in enumerate(digits):
        low = 1 if i == 0 else 0
        if int(digit) > low:
            same.append(f"{digits[:i]}[{low}-{int(digit) - 1}][0-9]{{{len(digits) - i - 1}}}")
    return f"^({'|'.join([*shorter, *same])})$"
