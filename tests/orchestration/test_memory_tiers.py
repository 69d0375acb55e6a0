import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_numpy.orchestration.memory import SUMMARY_BYTES, Memory, is_about_memory, is_to_remember


def test_what_is_pushed_out_is_archived_word_for_word_and_found(tmp_path):
    memory = Memory(tmp_path, context_bytes=300)
    said = [
        f"my {thing} is in the {place}"
        for thing, place in zip(
            ["key", "bag", "cup", "pen", "hat", "map"],
            ["attic", "barn", "cellar", "drawer", "entry", "field"],
            strict=True,
        )
    ]
    for text in said:
        memory.add(text, "Noted.")
    archived = [memory.archive.entry(i + 1) for i in range(len(memory.archive))]
    kept = [exchange.text for exchange in memory.context]
    assert archived + kept == [f"[{n}] asked: {text}\nanswered: Noted." for n, text in enumerate(said, 1)]
    assert len(archived) >= 1
    assert len(kept) >= 1
    assert sum(exchange.size for exchange in memory.context) <= 300
    for number, text in enumerate(said, 1):
        best, *_ = memory.search(f"where is my {text.split()[1]}?")
        assert best.number == number
        assert best.tier == ("archive" if number <= len(archived) else "context")


@settings(max_examples=15)
@given(said=st.lists(st.text(max_size=400), max_size=12), limit=st.integers(0, 800))
def test_nothing_is_lost_and_bounds_hold(said, limit, tmp_path_factory):
    folder = tmp_path_factory.mktemp("memory")
    memory = Memory(folder, context_bytes=limit)
    for text in said:
        memory.add(text, "ok")
    again = Memory(folder, context_bytes=limit)
    assert again.context == memory.context
    assert len(again.archive) + len(again.context) == len(said)
    assert sum(exchange.size for exchange in again.context) <= limit
    assert sum(len(line.encode("utf-8", "replace")) for line in again.summary) <= SUMMARY_BYTES


def test_the_summary_quotes_and_numbers(tmp_path):
    memory = Memory(tmp_path, context_bytes=0)
    memory.add("what is 17 * 23?", "391")
    memory.add("a long " + "story " * 50, "ok")
    assert memory.summary[0] == "[1] what is 17 * 23? -> 391"
    assert memory.summary[1].startswith("[2] a long story")
    assert "..." in memory.summary[1]


def test_a_new_conversation_loses_nothing(tmp_path):
    memory = Memory(tmp_path)
    memory.add("my dog is called Rex", "Noted.")
    memory.new_conversation()
    assert memory.context == []
    assert "Rex" in memory.search("dog")[0].text


def test_questions_about_memory_do_not_find_themselves(tmp_path):
    memory = Memory(tmp_path)
    memory.add("remember that my dog is called Rex", "Noted.")
    memory.add("what did I say about my dog?", "...")
    assert [found.number for found in memory.search("what did I say about my dog?")] == [1]


def test_equally_good_ones_come_latest_first(tmp_path):
    memory = Memory(tmp_path, context_bytes=60)
    memory.add("the code is 1111", "Noted.")
    memory.add("the code is 2222", "Noted.")
    assert [found.number for found in memory.search("what is the code?")] == [2, 1]


@pytest.mark.parametrize(
    "query",
    ["what did I tell you about my dog?", "do you remember my name?", "what's my dog's name?", "where are my keys?",
     "remind me what we discussed", "what was my first question?", "who is our plumber?", "what have we talked about"],
)  # fmt: skip
def test_questions_about_what_was_said(query):
    assert is_about_memory(query)


@pytest.mark.parametrize(
    "query",
    ["what is the capital of France?",
     "why is my loop infinite?", "how do I sort a list?", "how many apples do I have?",
     "write a story about what my dog did", "where do I put the semicolon?"],
)  # fmt: skip
def test_other_questions(query):
    assert not is_about_memory(query)


def test_what_is_to_be_remembered():
    assert is_to_remember("Remember that my dog is called Rex")
    assert is_to_remember("please note: the code is 5")
    assert not is_to_remember("do you remember Rex?")
    assert not is_to_remember("note")


def test_a_damaged_file(tmp_path):
    (tmp_path / "memory.json").write_text('{"context": 3}')
    with pytest.raises(ValueError, match=r"memory\.json is damaged"):
        Memory(tmp_path)
