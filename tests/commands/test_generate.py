import json


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


def test_no_control_character_reaches_the_terminal(cli, trained, monkeypatch):
    wanted = "\x1b[31mred\x07\u202e\tok\n".encode()
    monkeypatch.setattr("moe_numpy.models.generate", lambda *a, **k: iter(wanted))
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
