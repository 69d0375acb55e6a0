"""Chats as the text that a published model was trained on: its chat template."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import PretrainedError
from .small_files import read_object, read_text
from .special_tokens import CONFIG, special_tokens
from .tokenizer import INSTALL

FILE = "chat_template.jinja"
MORE = "additional_chat_templates"
SECONDS = 5  # of a processor
MEMORY = 512 << 20  # bytes
MOST_CHARACTERS = 16 << 20
_PATIENCE = 12  # times SECONDS, by the clock: others use the processor too
_REASONING = ("reasoning_content", "thinking", "reasoning")
_RENDERING = Path(__file__).with_name("rendering.py")


class ChatTemplate:
    """The chat template of a published model, or several by name.

    A template is a program in jinja's language. It runs in jinja's sandbox, in a process of its own with at most
    ``SECONDS`` of processor time, ``MEMORY`` and ``MOST_CHARACTERS`` of text.

    Attributes:
        templates: the source of each, by name; a single one is ``default``.
        path: the file that holds them.
        variables: what templates see besides the chat: the special tokens, by role.
    """

    def __init__(self, templates: dict[str, str], path: Path, variables: dict[str, str]):
        self.templates, self.path, self.variables = templates, path, variables

    @classmethod
    def open(cls, folder: Path) -> "ChatTemplate":
        """Read the template in the folder of a published model.

        From chat_template.jinja and additional_chat_templates/NAME.jinja; where there is neither, from
        ``chat_template`` of tokenizer_config.json, one template or a list of ``{"name": ..., "template": ...}``.

        Raises:
            PretrainedError: there is none, or a file is damaged.
        """
        files = {"default": folder / FILE} if os.path.lexists(folder / FILE) else {}
        files |= {path.stem: path for path in sorted((folder / MORE).glob("*.jinja"))}
        if files:
            templates, path = {name: read_text(path) for name, path in files.items()}, folder / FILE
        else:
            path = folder / CONFIG
            templates = _named(read_object(path).get("chat_template"), path)
        if not templates:
            raise PretrainedError(f"{folder} has no chat template: neither {FILE} nor chat_template in {CONFIG}")
        return cls(templates, path, special_tokens(folder))

    def render(
        self,
        messages: Sequence[Any],
        *,
        name: str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The text of a chat. It holds its special tokens: encode it with ``add_special_tokens=False``.

        Args:
            messages: mappings with a ``role``, mostly a ``content``, and what else the template reads. Entries that
                are None are left out. Reasoning may be under reasoning_content, thinking or reasoning.
            name: which template; else ``tool_use``, if there are tools and such a template, else ``default``.
            tools: JSON schemas of the functions that the model may call.
            add_generation_prompt: end with the beginning of an answer.
            variables: more that the template reads, such as ``enable_thinking=False``.

        Raises:
            ValueError: a message is no mapping with a role, or holds what JSON cannot.
            PretrainedError: jinja2 is missing, there is no such template, it is wrong, refuses the chat, or exceeds a
                limit.
        """
        if importlib.util.find_spec("jinja2") is None:
            raise PretrainedError(f"{self.path}: chat templates need jinja2, which is missing; {INSTALL}")
        chat = {
            "messages": [_message(message, i) for i, message in enumerate(messages)],
            "tools": tools,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        name = self._name(name, tools)
        answer = _run(self.templates[name], {**self.variables, **chat, **variables})
        if "text" in answer:
            return answer["text"]
        which = "" if len(self.templates) == 1 else f" {name!r}"
        raise PretrainedError(f"{self.path}, chat template{which}: {answer['error']}")

    def _name(self, name: str | None, tools: Any) -> str:
        if name is None:
            name = "tool_use" if tools is not None and "tool_use" in self.templates else "default"
        if name not in self.templates:
            raise PretrainedError(f"{self.path} has no chat template {name!r}; there are {sorted(self.templates)}")
        return name


def _message(message: Any, position: int) -> dict[str, Any]:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise ValueError(f"message {position} must have a role, a string, got {message!r:.200}")
    said = {key: value for key, value in message.items() if value is not None}
    reasoning = next((said[key] for key in _REASONING if key in said), None)
    return said if reasoning is None else {"thinking": reasoning, **said, "reasoning_content": reasoning}


def _named(value: Any, path: Path) -> dict[str, str]:
    """Templates by name, from one or a list of named ones."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {"default": value}
    try:
        templates = {entry["name"]: entry["template"] for entry in value}
    except (TypeError, KeyError):
        templates = {"": None}
    if not all(isinstance(text, str) for pair in templates.items() for text in pair):
        raise PretrainedError(
            f"{path}: chat_template must be a string or a list of objects with name and template, got {value!r:.200}"
        )
    return templates


def _run(template: str, variables: dict[str, Any]) -> dict[str, str]:
    """What the process answers: ``text`` or ``error``."""
    limits = {"seconds": SECONDS, "memory": MEMORY, "characters": MOST_CHARACTERS}
    try:
        request = json.dumps({"template": template, "variables": variables, **limits}).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"a chat must hold what JSON can: {error}") from error
    too_slow = {"error": f"it runs for more than {SECONDS} s"}
    try:
        process = subprocess.run(
            [sys.executable, "-P", str(_RENDERING)], input=request, capture_output=True, timeout=_PATIENCE * SECONDS
        )
    except subprocess.TimeoutExpired:
        return too_slow
    if hasattr(signal, "SIGXCPU") and process.returncode == -signal.SIGXCPU:
        return too_slow
    if process.returncode:
        last = process.stderr.decode(errors="replace").split("\n")[-2:]
        return {"error": f"its process ended with exit code {process.returncode}: {' '.join(last).strip()}"}
    return json.loads(process.stdout)
