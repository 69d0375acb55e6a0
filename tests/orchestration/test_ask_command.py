import json


def test_an_answer_and_why(cli):
    result = cli("ask", "what is 17 * 23?")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == "391"
    assert "all of it reads as the expression 17 * 23" in result.stdout


def test_json_is_the_whole_decision(cli):
    result = cli("ask", "what is the code point of the euro sign?", "--json")
    decision = json.loads(result.stdout)
    assert decision["chosen"] == "knowledge archive"
    assert decision["call"] == {"tool": "search", "archive": "knowledge", "query": decision["query"], "limit": 5}
    assert sum(decision["probabilities"].values()) > 0.999


def test_no_answer_exits_with_1(cli):
    assert cli("ask", "asdkjh qwelkj zxcmn").exit_code == 1


def test_explain_fits_80_columns(cli):
    result = cli("ask", "and what is fifteen percent of eighty?", "--explain")
    assert result.exit_code == 0
    assert "probability" in result.stdout
    assert '"tool": "calculator"' in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_log_and_new(cli):
    assert cli("ask", "--log").stdout == "No decisions yet.\n"
    cli("ask", "what is 2 + 2?")
    cli("ask", "and times 3?", "--new")
    shown = cli("ask", "--log").stdout
    assert "what is 2 + 2?" in shown
    assert "calculator: 4" in shown
    second = json.loads(cli("ask", "--log", "--json").stdout)[1]
    assert second["chosen"] is None


def test_usage(cli):
    for arguments in ((), ("--log", "what is 2 + 2?")):
        result = cli("ask", *arguments)
        assert result.exit_code == 2
        assert result.stderr.startswith("error: ")


def test_damaged_files_are_named(cli, folder):
    (folder / "router.safetensors").write_bytes(b"x")
    result = cli("ask", "what is 2 + 2?")
    assert result.exit_code == 2
    assert "router.safetensors holds no router" in result.stderr
