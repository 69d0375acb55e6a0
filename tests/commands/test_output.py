import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import typer
from rich.console import Console

from moe_numpy.commands.output import (
    command_line,
    print_json,
    printable,
    refusals,
    short_line,
    sparkline,
)
from moe_numpy.commands.progress import clock, training_progress
from moe_numpy.commands.shares import print_shares
from moe_numpy.models import ModelConfig
from moe_numpy.training import Corpus, Domain, StepRecord, Trainer, TrainingConfig


def console(**settings):
    return Console(file=io.StringIO(), width=settings.pop("width", 80), **settings)


def written(console):
    return console.file.getvalue()


def test_printable_removes_what_could_drive_a_terminal():
    assert printable("a\x1b[0m\x00\x7f\x9b\u202e\u200b\ud800b\n\tü€") == "a[0mb\n\tü€"


def test_a_byte_that_is_not_utf_8_is_shown():
    assert printable(os.fsdecode(b"r\xffn \xc3\xbc")) == r"r\xffn ü"


def test_a_long_name_is_cut_in_its_middle():
    path = "a/" * 2500 + "end"
    assert len(cut := short_line(f"{path}: File name too long, and {path!r}")) < 700
    assert cut.startswith("a/a/")
    assert "/a/end: File name too long" in cut
    assert short_line("a\n" + "b" * 999) == "a " + "b" * 999


def test_printable_keeps_what_holds_letters_and_emoji_together():
    text = "می\u200cخواهم क्\u200dष 👩\u200d👩 \ue0b0"
    assert printable(text) == text


def test_command_line_quotes_for_the_shell():
    assert command_line("generate", "my runs/x", "def ") == "python -m moe_numpy generate 'my runs/x' 'def '"


def test_shares_are_readable_without_colour():
    screen = console()
    print_shares(screen, "Title", ["prose", "code"], np.array([[0.5, 0.5, 0, 0], [0.1, 0.2, 0.3, 0.4]]))
    lines = [line.split() for line in written(screen).splitlines()]
    assert lines == [
        ["Title"],
        ["expert", "0", "1", "2", "3"],
        ["prose", "50+", "50+", "0-", "0-"],
        ["code", "10-", "20", "30", "40"],
    ]


def test_shares_are_shaded_where_there_is_colour():
    screen = console(force_terminal=True, color_system="truecolor")
    print_shares(screen, "Title", ["a"], np.array([[1.0, 0.0]]))
    assert "48;2;253;231;55" in written(screen)
    assert "48;2;0;34;78" in written(screen)


@pytest.mark.parametrize("width", [40, 80, 200])
def test_shares_of_many_experts_fit_any_width(width):
    screen = console(width=width)
    shares = np.full((2, 64), 1 / 64)
    print_shares(screen, "T", ["a_long_name_of_a_domain_that_is_cut", "b"], shares, last=("dropped", ["1 %", "2 %"]))
    lines = written(screen).splitlines()
    assert all(len(line.rstrip()) <= width for line in lines)
    experts = [int(n) for line in lines if line.startswith("expert") for n in line.split()[1:-1]]
    assert experts == list(range(64))


def test_sparkline_goes_from_nothing_to_the_top():
    assert sparkline([0, 0.5, 1], console(), top=1) == "▁▅█"


def test_sparkline_in_ascii(monkeypatch):
    class Ascii(io.StringIO):
        encoding = "ascii"

    assert sparkline([0, 1], Console(file=Ascii()), top=1) == "_#"


def test_json_refuses_what_json_cannot_say(capsys):
    print_json({"a": [1.5]})
    assert json.loads(capsys.readouterr().out) == {"a": [1.5]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        print_json(float("nan"))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("x must be y"), "error: x must be y"),
        (PermissionError(13, "Permission denied", "a/b"), "error: a/b: Permission denied"),
        (OSError("disk on fire"), "error: disk on fire"),
        (MemoryError("no room for 8 EiB"), "error: no room for 8 EiB"),
    ],
)
def test_refusals_are_plain_lines(capsys, error, message):
    with pytest.raises(typer.Exit) as stopped, refusals():
        raise error
    assert stopped.value.exit_code == 2
    assert capsys.readouterr().err == message + "\n"


def test_other_errors_keep_their_traceback():
    with pytest.raises(KeyError), refusals():
        raise KeyError("bug")


def test_clock():
    assert [clock(s) for s in (0, 65.4, 7384)] == ["0:00", "1:05", "2:03:04"]


@pytest.fixture
def trainer():
    text = np.frombuffer(b"some text " * 30, np.uint8)
    model = ModelConfig(d_model=8, num_layers=1, num_heads=1, num_kv_heads=1, d_ff=4, num_experts=2, context=8)
    return Trainer(model, TrainingConfig(steps=40, warmup=1, batch_size=1), Corpus([Domain("a", text, text)]))


def follow(screen, trainer):
    with training_progress(screen, "MoE", trainer) as show:
        for step in range(1, 41):
            show(StepRecord(step, 2.5, 0.0, 0.0, 1.0, 0.0, [], seconds=0.004))


def test_progress_in_a_pipe_is_ten_plain_lines(trainer):
    screen = console()
    follow(screen, trainer)
    lines = written(screen).splitlines()
    assert len(lines) == 10
    assert lines[0] == "MoE    step  4/40  loss 2.500  2,000 tokens/s  0:00 left"
    assert lines[-1].startswith("MoE    step 40/40")


@pytest.mark.parametrize("width", [80, 120])
def test_progress_on_a_terminal_is_one_live_line(trainer, width):
    screen = console(width=width, force_terminal=True, force_interactive=True, color_system=None)
    follow(screen, trainer)
    assert "40/40 loss 2.500 2,000 tokens/s 0:00 left\n" in written(screen)


def test_the_command_line_starts_without_matplotlib():
    program = "import sys; from moe_numpy.__main__ import app; print([m for m in sys.modules if 'matplotlib' in m])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
