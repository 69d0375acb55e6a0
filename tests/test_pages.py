"""The commands that the pages and the notebooks give exist, with their options, and so do the files that they name."""

import json
import re
from pathlib import Path

import pytest
import typer

import benchmarks.__main__ as benchmarks
import exercises.cli as exercises
import moe_numpy.__main__ as package

PROJECT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md"), *PROJECT.glob("exercises/**/*.md"),
     *PROJECT.glob("benchmarks/*.md"), *PROJECT.glob("notebooks/*.ipynb")]
)  # fmt: skip
APPS = {
    name: typer.main.get_command(module.app)
    for name, module in (("moe_numpy", package), ("exercises", exercises), ("benchmarks", benchmarks))
}
APPS["moe_numpy"].commands["bench"] = APPS["benchmarks"]  # which it hands its arguments to
_COMMAND = re.compile(r"(?:python -m |\bmoe-numpy(?= ))(\w+(?:\.\w+)?)?((?: [^`\n#|&]*)?)")
_SPAN = re.compile(r"`([^`]+)`")
_FILE = re.compile(r"[\w-]+(?:/[\w-]+)*/[\w-]+\.(?:py|md|cu|json|jsonl|typ|css|js|yml)")


def text_of(page):
    """Markdown, of a notebook its cells'; a command that goes on in the next line is in one."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        text = "\n\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
    text = text.replace("\\\n", " ")
    return re.sub(r"`[^`\n]+\n[^`\n]+`", lambda span: " ".join(span[0].split()), text)


def objections(program, words):
    """What a command line has that the program has not."""
    command, path = APPS[program], program
    while hasattr(command, "commands") and words and re.fullmatch(r"[a-z]+", words[0]):
        if words[0] not in command.commands:
            return [f"{path} has no command {words[0]}"]
        command, path, words = command.commands[words[0]], f"{path} {words[0]}", words[1:]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    options = [word.partition("=")[0].rstrip(",;.:") for word in words if word.startswith("--")]
    return [f"{path} has no option {option}" for option in options if option not in {*known, "--help"}]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_option_exists(page):
    wrong = []
    for program, rest in _COMMAND.findall(text_of(page)):
        if program.startswith("benchmarks."):
            if not (PROJECT / program.replace(".", "/")).with_suffix(".py").exists():
                wrong.append(f"there is no {program}")
        elif not program or program in APPS:
            wrong += objections(program or "moe_numpy", rest.split())
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_is_named_is_there(page):
    places = (page.parent, PROJECT, PROJECT / "moe_numpy")
    text = re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL)
    of_learners = ("exercises/work/", "exercises/catalog/exNN_")  # made by them, or to be made
    named = {span for span in _SPAN.findall(text) if _FILE.fullmatch(span) and not span.startswith(of_learners)}
    assert {name for name in named if not any((place / name).exists() for place in places)} == set()
