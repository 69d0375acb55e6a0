"""Odd values for every option of every command: one error, never a traceback, and nothing left behind."""

import os
import shutil
from itertools import islice
from pathlib import Path

import pytest
import typer
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import moe_numpy.commands.gradcheck
import moe_numpy.inference
from moe_numpy.__main__ import app
from moe_numpy.orchestration.specialists import KINDS

TOP = typer.main.get_command(app).commands
COMMANDS = {
    " ".join((name, *below)): part
    for name, command in TOP.items()
    for below, part in ([((sub,), c) for sub, c in command.commands.items()] if name == "experts" else [((), command)])
}
NUMBERS = ["nan", "inf", "-inf", "-0.0", "1e308", "1e-320", "1e999", "0x10", "٣", "1.5.2", ""]
WHOLE = ["-1", "0", "1", "3", "1000000000", str(2**63), str(10**25), str(-(10**25)), "9" * 5000]
WORDS = ["", " ", "$a$b$", "漢字", "a\tb", "a\nb", "\x1b[2J", "\udcff", "{}", "--", "%s", "../..", "[red]", "a" * 300]
PATHS = ["loop", "pipe", "/dev/zero", "/dev/null", "folder", "missing", "latin", "nul", "file.py:f", "pipe.py:f", ":"]
ODD = st.one_of(
    st.sampled_from([*NUMBERS, *WHOLE, *WORDS, *PATHS]),
    st.text(st.characters(exclude_characters="\0"), max_size=8),
    st.integers(max_value=3).map(str),
    st.integers(min_value=10**9).map(str),
    st.floats().map(str),
)
QUICK = settings(
    max_examples=6,
    deadline=None,
    phases=[Phase.generate],  # a value is small enough without shrinking
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
TINY = "--d-model 16 --num-layers 2 --num-experts 4 --d-ff 8 --context 16 --batch-size 2 --steps 2"
REQUIRED = {
    "train": ["train", *TINY.split(), "--text", "words"],
    "generate": ["generate", "run", "the", "--tokens", "2"],
    "inspect": ["inspect", "run"],
    "convert": ["convert", "run", "out", "--to", "mixtral"],
    "quantize": ["quantize", "run", "out", "--experts", "int4"],
    "gradcheck": ["gradcheck", "add_broadcast"],
    "recipes": ["recipes", "mixtral"],
    "count": ["count", "mixtral-8x7b"],
    "plan": ["plan", "mixtral-8x7b", "--gpus", "8"],
    "ledger": ["ledger", "run"],
    "upcycle": ["upcycle", "run", "out"],
    "experts list": ["experts", "list", "run"],
    "experts add": ["experts", "add", "run", "--text", "words"],
    "experts drop": ["experts", "drop", "run", "0:0"],
    "experts merge": ["experts", "merge", "run"],
    "experts freeze": ["experts", "freeze", "run", "0:0"],
    "ask": ["ask", "--folder", "asked", "what is 2 + 3?"],
    "specialists": ["specialists"],
    "course": ["course", "learned"],
    "demo": ["demo"],
    "doctor": ["doctor"],
}
POSITIONS = {("generate", "model"): 1, ("generate", "prompt"): 2, ("inspect", "model"): 1, ("gradcheck", "pattern"): 1,
             ("convert", "model"): 1, ("convert", "out"): 2, ("quantize", "model"): 1,
             ("quantize", "out"): 2, ("recipes", "name"): 1, ("count", "model"): 1, ("plan", "model"): 1,
             ("ledger", "run"): 1, ("upcycle", "source"): 1, ("upcycle", "out"): 2, ("ask", "query"): 3,
             ("course", "folder"): 1,
             **{(f"experts {name}", "run"): 2 for name in ("list", "add", "drop", "merge", "freeze")},
             ("experts drop", "names"): 3, ("experts freeze", "names"): 3}  # fmt: skip
WRITING = {
    "convert",
    "quantize",
    "upcycle",
    "ask",
    "specialists",
    "course",
    *(name for name in REQUIRED if "experts" in name),
}
OPTIONS = [
    (name, option.name)
    for name, command in COMMANDS.items()
    for option in command.params
    if name in REQUIRED and option.name != "help" and not getattr(option, "is_flag", False)
]


def with_value(command, option, value):
    arguments = list(REQUIRED[command])
    if (command, option) in POSITIONS:
        arguments[POSITIONS[command, option]] = value
        return arguments
    return [*arguments, f"--{option.replace('_', '-')}", value]


@pytest.fixture
def room(tmp_path, trained, monkeypatch):
    """Odd files to name, a run, and nothing that takes long."""
    os.symlink("loop", "loop")
    os.symlink(trained, "run")
    for name in ("pipe", "pipe.py"):
        os.mkfifo(name)
    Path("folder").mkdir()
    Path("words").write_text("some words and 1 + 1 = 2 of them, " * 60)
    Path("latin").write_bytes("größer".encode("latin-1") * 99)
    Path("nul").write_bytes(b"a\0" * 999)

    def not_trained(*_, **__):
        raise typer.Exit(0)

    real, checks = moe_numpy.inference.write, moe_numpy.commands.gradcheck._run
    monkeypatch.setattr("moe_numpy.commands.gradcheck._run", lambda chosen, seed: checks(chosen[:1], seed))
    monkeypatch.setattr("moe_numpy.commands.generate.write", lambda *a, **k: islice(real(*a, **k), 3))
    monkeypatch.setattr("moe_numpy.commands.train.run_training", not_trained)
    monkeypatch.setattr("moe_numpy.commands.demo.run_training", not_trained)
    monkeypatch.setattr("moe_numpy.commands.new_experts.run_training", not_trained)
    monkeypatch.setattr("moe_numpy.commands.specialists.run_training", not_trained)
    monkeypatch.setattr("moe_numpy.orchestration.specialists.texts", lambda: dict.fromkeys(KINDS, "words " * 3000))
    monkeypatch.setattr("moe_numpy.orchestration.asking.open_router", not_trained)
    monkeypatch.setattr("moe_numpy.commands.starting_ranks.mpiexec", not_trained)
    monkeypatch.setattr("moe_numpy.commands.inspect.save_inspect_figures", lambda *a: [])
    return {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize(("command", "option"), OPTIONS, ids=[f"{c} {o}" for c, o in OPTIONS])
@settings(
    max_examples=6, deadline=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(value=ODD)
def test_an_odd_value_is_at_most_an_error(room, command, option, value):
    result = CliRunner().invoke(app, with_value(command, option, value))
    told = f"{command} {option} {value!a}: {result.exception!r}\n{result.output}"
    assert result.exception is None or isinstance(result.exception, SystemExit), told
    assert result.exit_code in (0, 2), told
    assert "Traceback" not in result.output, told
    assert "\x1b[2J" not in result.output, told
    if result.exit_code == 0 and (command in WRITING or option in ("trace", "html")):
        for written in {path.name for path in Path.cwd().iterdir()} - room:
            shutil.rmtree(written) if Path(written).is_dir() else Path(written).unlink()
    assert {path.name for path in Path.cwd().iterdir()} == room, told
    assert (result.exit_code == 0) or result.stdout == "", told
    assert (result.exit_code == 0) or len(result.stderr.splitlines()) == 1, told


def test_every_option_is_there():
    apart = {"bench", "serve"}  # the options of one are those of benchmarks/; the other goes on until it is stopped
    assert set(REQUIRED) == set(COMMANDS) - apart
    assert len(OPTIONS) > 35
