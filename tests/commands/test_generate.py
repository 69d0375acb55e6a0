import json

import pytest
from published_models import make_published


def test_text_is_the_same_streamed_and_as_json(cli, trained):
    plain = cli("generate", trained, "the ", "--tokens", 20)
    document = json.loads(cli("generate", trained, "the ", "--tokens", 20, "--json").stdout)
    assert plain.exit_code == 0
    assert plain.stdout.startswith("the ")
    assert document["step"] == 6
    assert document["prompt"] == "the "
    printed = plain.stdout.removeprefix("the ").removesuffix("\n")
    assert printed == "".join(c for c in document["text"] if c.isprintable() or c in "\n\t")


def test_seed_and_checkpoint_decide_the_text(cli, trained):
    def text(*options):
        return json.loads(cli("generate", trained, "the ", "--tokens", 20, "--json", *options).stdout)["text"]

    assert text() == text("--seed", 0)
    assert text() != text("--seed", 1)
    assert text() != text("--step", 4)


@pytest.mark.parametrize("first_time", [True, False])
def test_the_first_text_on_a_machine_says_that_it_compiles(cli, trained, monkeypatch, first_time):
    monkeypatch.setattr("moe_numpy.kernels.must_compile", lambda loop: first_time and loop == "program_loops.lead")
    said = cli("generate", trained, "the ", "--tokens", 2)
    assert ("Compiling the loops for this processor, once on this machine" in said.stderr) is first_time
    assert said.stdout.startswith("the ")


def test_no_control_character_reaches_the_terminal(cli, trained, monkeypatch):
    wanted = "\x1b[31mred\x07\u202e\tok\n".encode()
    monkeypatch.setattr("moe_numpy.commands.generate.write", lambda *a, **k: iter(wanted))
    result = cli("generate", trained, "\x1b[2Jprompt ")
    assert result.stdout == "[2Jprompt [31mred\tok\n\n"
    document = json.loads(cli("generate", trained, "p", "--json").stdout)
    assert document["text"] == wanted.decode()  # escaped by JSON, nothing lost


def test_refusals(refused, trained):
    assert "prompt is empty" in refused("generate", trained, "")
    assert "temperature" in refused("generate", trained, "a", "--temperature", -1)
    assert "top_p" in refused("generate", trained, "a", "--top-p", 0)
    assert "holds no checkpoint of step 5; there are 4, 6" in refused("generate", trained, "a", "--step", 5)
    assert "is not a run" in refused("generate", "nowhere", "a")
    refused("generate", trained, "\udcff")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return make_published(tmp_path_factory.mktemp("published"))


def test_formats_keep_the_text_or_nearly(cli, published):
    def text(*options):
        result = cli("generate", published, "the ", "--tokens", 12, "--json", *options)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)["text"]

    assert text() == text("--format", "float32") == text("--format", "bfloat16")  # what it is stored in
    assert all(text("--format", name) for name in ("int8", "int4", "mxfp4", "fp8"))
    assert text("--temperature", 0) == text("--temperature", 0, "--guess", 4)


def test_formats_that_do_not_work_are_named(refused, published, tmp_path, cli):
    assert "format must be one of float32, bfloat16" in refused("generate", published, "a", "--format", "int3")
    assert "give one of them" in refused("generate", published, "a", "--format", "int8", "--memory", "1MB")
    assert "--guess is for --temperature 0, got 0.8" in refused("generate", published, "a", "--guess", 3)


def test_rows_that_depend_on_others_are_read_by_the_modules_of_training(cli, refused, tiny, tmp_path):
    run = tmp_path / "run"
    assert cli(*tiny, "--recipe", "expert_choice", "--out", run).exit_code == 0
    assert cli("generate", run, "the ", "--tokens", 5).exit_code == 0
    assert "--format: MoE layers cannot be decoded row by row: the experts of a row depend on other rows" in refused(
        "generate", run, "a", "--format", "int8"
    )
