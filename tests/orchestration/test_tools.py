import json

import pytest

from moe_numpy.orchestration.archive import Archive
from moe_numpy.orchestration.calculator import CalculatorError
from moe_numpy.orchestration.memory import Memory
from moe_numpy.orchestration.tools import Calculate, Toolbox, ToolError, as_json, read_call, schema


@pytest.fixture
def toolbox(tmp_path):
    knowledge = Archive(":memory:")
    knowledge.add([("water boils at 100 degrees", "test")])
    return Toolbox(knowledge, Memory(tmp_path), lambda kind, text, size: f"{kind}:{text}:{size}")


def test_each_tool(toolbox):
    assert toolbox.run('{"tool": "calculator", "expression": "17 * 23"}')["value"] == "391"
    found = toolbox.run('{"tool": "search", "archive": "knowledge", "query": "when does water boil?"}')
    assert found["hits"][0]["entry"] == 1
    assert found["having_all_words"] == 1
    toolbox.memory.add("my hat is red", "Noted.")
    said = toolbox.run('{"tool": "search", "archive": "memory", "query": "hat", "limit": 1}')
    assert said["hits"][0]["source"] == "context"
    assert toolbox.run('{"tool": "write", "specialist": "code", "text": "def "}') == {"text": "code:def :200"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("{", "not a call"),
        ("[]", "Expected `object`"),
        ("{}", "missing required field `tool`"),
        ('{"tool": "shell", "expression": "ls"}', "Invalid value 'shell'"),
        ('{"tool": "calculator"}', "missing required field `expression`"),
        ('{"tool": "calculator", "expression": 5}', r"Expected `str`, got `int` - at `\$.expression`"),
        ('{"tool": "calculator", "expression": ""}', "length >= 1"),
        ('{"tool": "calculator", "expression": "1", "eval": true}', "unknown field `eval`"),
        ('{"tool": "search", "archive": "web", "query": "x"}', "Invalid enum value 'web'"),
        ('{"tool": "search", "archive": "memory", "query": "x", "limit": 1000}', "<= 20"),
        ('{"tool": "write", "specialist": "code", "text": "x", "bytes": 10000000}', "<= 2000"),
        ("\ud800", "not a call"),
    ],
)
def test_calls_that_fit_no_schema(toolbox, call, message):
    with pytest.raises(ToolError, match=message):
        toolbox.run(call)


def test_the_calculators_own_errors(toolbox):
    with pytest.raises(CalculatorError, match="1000 digits"):
        toolbox.run('{"tool": "calculator", "expression": "10**10**10"}')


def test_calls_there_and_back():
    call = Calculate("1 + 1")
    assert read_call(json.dumps(as_json(call))) == call
    assert {"Calculate", "Search", "Write"} <= set(schema()["$defs"])
