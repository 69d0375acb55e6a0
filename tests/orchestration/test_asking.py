import pytest

from moe_numpy.orchestration.asking import UNKNOWN, read_log


def test_arithmetic_is_calculated_and_followed_up(asker):
    first = asker.ask("what is 17 * 23?")
    assert (first.answer, first.chosen, first.call["expression"]) == ("391", "calculator", "17 * 23")
    second = asker.ask("and times 3?")
    assert second.answer == "1173"
    assert "follows up on [1]" in " ".join(second.why)


def test_a_rounded_result_is_not_continued(asker):
    assert asker.ask("the square root of 2").answer.startswith("about 1.414")
    assert asker.ask("and times 3?").chosen is None


def test_facts_are_cited(asker):
    decision = asker.ask("what is the code point of the euro sign?")
    assert decision.chosen == "knowledge archive"
    entry = decision.result["hits"][0]["entry"]
    assert decision.answer == f"{asker.toolbox.knowledge.entry(entry)} [unicodedata, entry {entry}]"
    assert "U+20AC" in decision.answer


@pytest.mark.parametrize(
    "query",
    [
        "what is the capital of France?",
        "who painted the Mona Lisa?",
        "how many people live in Tokyo?",
        "who was Napoleon?",
        "what is a cat?",
    ],
)
def test_what_the_archive_does_not_say_is_not_known(asker, query):
    decision = asker.ask(query)
    assert decision.kind == "knowledge"
    assert decision.chosen is None
    assert decision.answer == UNKNOWN
    assert "no entry of the archive has all words" in decision.why[-1]


def test_too_general_a_question(asker):
    decision = asker.ask("what is the MIME type?")
    assert decision.chosen is None
    assert "says too little" in decision.why[-1]


def test_memory_quotes_and_numbers(asker):
    asker.ask("remember that my dog is called Rex")
    asker.memory.new_conversation()
    decision = asker.ask("what is my dog's name?")
    assert decision.chosen == "memory"
    assert decision.answer.startswith("[1] asked: remember that my dog is called Rex")
    assert "in the archive" in decision.why[-1]
    assert asker.ask("what is my cat's name?").answer.startswith(UNKNOWN)


def test_no_text_without_a_specialist(asker):
    decision = asker.ask("write a poem about autumn")
    assert (decision.kind, decision.chosen) == ("prose", None)
    assert "python -m moe_numpy specialists" in decision.answer


def test_follow_ups_keep_the_kind(asker):
    asker.ask("which time zone is Tokyo in?")
    decision = asker.ask("and Berlin?")
    assert decision.kind == "knowledge"
    assert "Europe/Berlin" in decision.answer


@pytest.mark.parametrize("query", ["", "kjhasd qwoiu zmxn", "Wie spät ist es?", "\x00\x01"])
def test_noise_gets_no_answer(asker, query):
    decision = asker.ask(query)
    assert decision.kind is None
    assert decision.answer.startswith(UNKNOWN)


def test_word_problems_are_not_guessed(asker):
    decision = asker.ask("Ben has 24 marbles and loses 9. How many does he still have?")
    assert (decision.kind, decision.chosen) == ("arithmetic", None)
    assert "the calculator cannot read it" in decision.why[-1]


def test_refused_at_once(asker):
    decision = asker.ask("10**10**10")
    assert decision.chosen is None
    assert "1000 digits" in decision.answer


def test_everything_is_logged(asker):
    asked = ["what is 1 + 1?", "write a poem", "", "x" * 5000]
    decisions = [asker.ask(query) for query in asked]
    assert read_log(asker.folder) == decisions
    assert all(decision.why for decision in decisions)
    assert len(decisions[-1].query) == 2000


def test_a_damaged_log(folder):
    (folder / "decisions.jsonl").write_text('{"query": 3}\n')
    with pytest.raises(ValueError, match="line 1"):
        read_log(folder)
