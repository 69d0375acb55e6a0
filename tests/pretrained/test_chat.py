import importlib.util
import json
from pathlib import Path

import pytest

pytest.importorskip("jinja2", reason="needs jinja2: python -m pip install jinja2")

from moe_numpy.pretrained import chat
from moe_numpy.pretrained.chat import ChatTemplate
from moe_numpy.pretrained.errors import PretrainedError

HI = [{"role": "user", "content": "hi"}]
CHATML = """
{%- for message in messages %}
    {% if message.role == 'tool' %}
        {% continue %}
    {% endif %}
<|im_start|>{{ message.role }}
{{ message.content }}{{ eos_token }}
{% endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% endif %}
"""


def template_of(source, **variables):
    return ChatTemplate({"default": source}, Path("model/chat_template.jinja"), variables)


def rendered(source, messages=HI, **variables):
    return template_of(source).render(messages, **variables)


def refused(source, messages=HI, **variables):
    with pytest.raises(PretrainedError) as caught:
        rendered(source, messages, **variables)
    assert "\n" not in str(caught.value)
    start = "model/chat_template.jinja, chat template: "
    assert str(caught.value).startswith(start)
    return str(caught.value).removeprefix(start)


def test_a_chat_with_the_beginning_of_an_answer_and_without():
    template = template_of(CHATML, eos_token="<|im_end|>")
    messages = [*HI, {"role": "tool", "content": "-"}, {"role": "assistant", "content": "yo"}]
    turns = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyo<|im_end|>\n"
    assert template.render(messages) == turns + "<|im_start|>assistant\n"
    assert template.render(messages, add_generation_prompt=False) == turns


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ messages[0] | tojson }}", '{"role": "user", "content": "<é> & \'"}'),
        ("{{ messages | tojson(indent=1) }}", '[\n {\n  "role": "user",\n  "content": "<é> & \'"\n }\n]'),
        ("{{ {'b': 1, 'a': 2} | tojson(sort_keys=true, separators=(',', ':')) }}", '{"a":2,"b":1}'),
        ("{% generation %}a{% set x = 1 %}{% endgeneration %}{{ x is defined }}", "aFalse"),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("{{ tools is none }}{{ documents is none }}{{ undefined_name }}", "TrueTrue"),
        ("{% set ns = namespace(n=1) %}{% set ns.n = ns.n + 1 %}{{ ns.n }}", "2"),
        ("{{ dict(a=1) }}{{ dict.fromkeys([1]) }}", "{'a': 1}{1: None}"),
        ("   {% if true %}\n  a\n   {% endif %}\n\n", "  a\n"),
        ("{{ strftime_now('%%') }}", "%"),
        ("a\r\nb", "a\nb"),
    ],
)
def test_templates_mean_what_they_mean_to_their_authors(source, text):
    assert rendered(source, [{"role": "user", "content": "<é> & '"}]) == text


def test_entries_that_are_none_are_missing_and_reasoning_has_all_its_names():
    messages = [{"role": "assistant", "content": None, "thinking": "hm", "tool_calls": None}]
    assert rendered("{{ messages[0] | tojson }}", messages) == (
        '{"thinking": "hm", "role": "assistant", "reasoning_content": "hm"}'
    )


def test_variables_reach_the_template_and_win():
    template = template_of("{{ bos_token }}{{ enable_thinking }}", bos_token="<s>")
    assert template.render(HI, enable_thinking=False) == "<s>False"
    assert template.render(HI, bos_token="<x>") == "<x>"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("a\n{% if %}", "line 2: Expected an expression"),
        ("a\n\n{{ messages[0].content.b.c }}", "line 3: 'str object' has no attribute 'b'"),
        ("{{ raise_exception('roles must\nalternate') }}", "line 1: roles must alternate"),
        ("{{ 1 / 0 }}", "line 1: ZeroDivisionError: division by zero"),
        ("{{ messages.append(1) }}", "line 1: access to attribute 'append' of 'list' object is unsafe"),
        ("{{ dict.update(messages[0], a=1) }}", "line 1: '__main__.PlainDict object' has no attribute 'update'"),
        ("{{ ''.__class__.__mro__ }}", "line 1: access to attribute '__class__' of 'str' object is unsafe"),
        ("{{ namespace(__a=1) }}", "line 1: a namespace takes no name that begins with an underscore, got '__a'"),
        ("{% include 'x' %}", "line 1: TypeError: no loader"),
    ],
)
def test_an_error_of_a_template_is_one_line_and_names_its_own(source, reason):
    assert refused(source).startswith(reason)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "it runs for more than 1 s"),
        ("{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}", "it runs for"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "line 1: it is nested too deeply, or calls itself"),
        ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "it is nested too deeply, or calls itself"),
        ("{% for i in range(99999) %}{{ 'abcdefghij' * 100 }}{% endfor %}", "it writes more than 16,777,216 char"),
        ("{{ range(10**9) | list }}", "line 1: OverflowError: Range too big"),
        ("{{ 'x' | center(10**10) }}", "line 1: it needs too much memory"),
    ],
)
def test_a_template_without_end_ends(monkeypatch, source, reason):
    pytest.importorskip("resource", reason="the system has no limits of memory and of processor time")
    monkeypatch.setattr(chat, "SECONDS", 1)
    assert refused(source).startswith(reason)


def test_a_template_that_doubles_a_text_ends_at_the_limit_of_memory_or_of_time():
    pytest.importorskip("resource", reason="the system has no limits of memory and of processor time")
    source = "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}"
    assert refused(source).startswith(("line 1: it needs too much memory", f"it runs for more than {chat.SECONDS} s"))


def test_the_clock_ends_what_waits(monkeypatch):
    monkeypatch.setattr(chat, "_PATIENCE", 0.001)
    assert refused("x").startswith("it runs for more than 5 s")


@pytest.mark.parametrize("message", ["hi", {"content": "hi"}, {"role": 1, "content": "hi"}])
def test_a_message_without_a_role_is_refused(message):
    with pytest.raises(ValueError, match="message 1 must have a role, a string, got"):
        rendered("x", [*HI, message])


def test_what_json_cannot_hold_is_refused():
    with pytest.raises(ValueError, match=r"a chat must hold what JSON can: .*set"):
        rendered("x", documents={1})


def test_a_missing_library_names_the_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PretrainedError, match="need jinja2, which is missing; python -m pip install"):
        rendered("x")


class TestFiles:
    def test_one_template_in_the_config(self, tmp_path):
        write_config(tmp_path, chat_template="{{ eos_token }}", eos_token={"content": "</s>"})
        assert ChatTemplate.open(tmp_path).render(HI) == "</s>"

    def test_named_templates(self, tmp_path):
        named = [{"name": name, "template": name} for name in ("default", "tool_use", "rag")]
        write_config(tmp_path, chat_template=named)
        template = ChatTemplate.open(tmp_path)
        assert template.render(HI) == "default"
        assert template.render(HI, tools=[]) == "tool_use"
        assert template.render(HI, name="rag") == "rag"
        with pytest.raises(PretrainedError, match=r"no chat template 'x'; there are \['default', 'rag', 'tool_use'\]"):
            template.render(HI, name="x")

    def test_files_of_templates_come_before_the_config(self, tmp_path):
        write_config(tmp_path, chat_template="config")
        (tmp_path / "chat_template.jinja").write_text("é", encoding="utf-8")
        assert ChatTemplate.open(tmp_path).render(HI) == "é"
        (tmp_path / "additional_chat_templates").mkdir()
        (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
        assert ChatTemplate.open(tmp_path).render(HI, tools=[{"name": "f"}]) == "tools"

    @pytest.mark.parametrize("value", [3, {"a": "b"}, [{"name": "x"}], ["x"], [{"name": 1, "template": "x"}]])
    def test_a_template_of_another_type_is_refused(self, tmp_path, value):
        write_config(tmp_path, chat_template=value)
        with pytest.raises(PretrainedError, match=r"tokenizer_config\.json: chat_template must be a string or a list"):
            ChatTemplate.open(tmp_path)

    def test_damaged_files(self, tmp_path):
        with pytest.raises(PretrainedError, match="has no chat template"):
            ChatTemplate.open(tmp_path)
        (tmp_path / "chat_template.jinja").write_bytes(b"a\xff")
        with pytest.raises(PretrainedError, match=r"chat_template\.jinja is not UTF-8 at byte 1"):
            ChatTemplate.open(tmp_path)
        (tmp_path / "chat_template.jinja").write_bytes(b"x" * 4_000_001)
        with pytest.raises(PretrainedError, match=r"chat_template\.jinja has 4,000,001 bytes; at most 4,000,000"):
            ChatTemplate.open(tmp_path)


def write_config(folder, **values):
    (folder / "tokenizer_config.json").write_text(json.dumps(values), encoding="utf-8")
