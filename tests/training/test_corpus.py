import os
import re
import sys
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_numpy.training import (
    Corpus,
    CorpusError,
    Domain,
    built_in_text,
    bytes_needed,
    corpus,
    decode,
    default_corpus,
    encode,
    text_corpus,
)


@pytest.fixture(scope="module")
def built_in():
    return default_corpus()


def numbered_corpus(*sizes):
    """Domain d holds bytes that are d modulo the number of domains, so any window tells where it is from."""
    n = len(sizes)
    period = np.arange(256 - 256 % n)

    def text(d, size):
        values = period[period % n == d]
        return np.resize(values, size).astype(np.uint8)

    return Corpus(Domain(f"domain {d}", text(d, size), text(d, size)) for d, size in enumerate(sizes))


@given(st.text())
def test_encode_and_decode_are_inverse(text):
    tokens = encode(text)
    assert tokens.dtype == np.int64
    assert decode(tokens) == text


def test_decode_of_what_is_not_text():
    assert decode(np.array([104, 195, 105])) == "h\ufffdi"
    with pytest.raises(ValueError, match="256"):
        decode(np.array([256]))


@given(
    step=st.integers(0, 10**6),
    seed=st.integers(0, 2**40),
    batch_size=st.integers(1, 20),
    context=st.integers(1, 40),
    sizes=st.lists(st.integers(41, 200), min_size=1, max_size=4),
)
def test_batches_are_pure_windows_of_one_domain(step, seed, batch_size, context, sizes):
    made = numbered_corpus(*sizes)
    batch = made.batch(step, batch_size=batch_size, context=context, seed=seed)
    again = numbered_corpus(*sizes).batch(step, batch_size=batch_size, context=context, seed=seed)
    for name in ("tokens", "targets", "domain"):
        np.testing.assert_array_equal(getattr(batch, name), getattr(again, name))
    assert batch.tokens.shape == batch.targets.shape == (batch_size, context)
    assert batch.tokens.dtype == batch.targets.dtype == np.int64
    np.testing.assert_array_equal(batch.tokens[:, 1:], batch.targets[:, :-1])
    for row in range(batch_size):
        window = bytes([*batch.tokens[row].tolist(), int(batch.targets[row, -1])])
        assert window in made.domains[batch.domain[row]].train.tobytes()
        assert set(np.frombuffer(window, np.uint8) % len(sizes)) == {batch.domain[row]}


def test_batches_do_not_depend_on_the_order_of_calls_and_differ():
    made = numbered_corpus(5000, 7000)
    forwards = [made.batch(s, batch_size=8, context=16, seed=3).tokens for s in range(5)]
    backwards = [made.batch(s, batch_size=8, context=16, seed=3).tokens for s in reversed(range(5))][::-1]
    np.testing.assert_array_equal(forwards, backwards)
    assert len({batch.tobytes() for batch in forwards}) == 5
    assert (made.batch(0, batch_size=8, context=16, seed=4).tokens != forwards[0]).any()


def test_every_position_and_domain_is_drawn_equally():
    made = Corpus([Domain(str(i), np.arange(12, dtype=np.uint8), np.zeros(12, np.uint8)) for i in range(3)])
    batch = made.batch(0, batch_size=30_000, context=3, seed=0)
    assert np.bincount(batch.domain) == pytest.approx([10_000] * 3, rel=0.05)
    assert np.bincount(batch.tokens[:, 0]) == pytest.approx([30_000 / 9] * 9, rel=0.1)  # starts 0 to 12 - 4


@given(context=st.integers(1, 30), sizes=st.lists(st.integers(31, 400), min_size=1, max_size=4), data=st.data())
def test_validation_windows_are_fixed_disjoint_and_balanced(context, sizes, data):
    made = Corpus(
        Domain(str(d), np.zeros(40, np.uint8), np.arange(size, dtype=np.int64).astype(np.uint8))
        for d, size in enumerate(sizes)
    )
    windows = made.validation_windows(context)
    available = (min(sizes) - 1) // context
    np.testing.assert_array_equal(windows.domain, list(range(len(sizes))) * available)
    for d in range(len(sizes)):
        tokens = windows.tokens[windows.domain == d].ravel()
        np.testing.assert_array_equal(tokens, np.arange(available * context) % 256)
        np.testing.assert_array_equal(windows.targets[windows.domain == d].ravel(), (tokens + 1) % 256)
    limit = data.draw(st.integers(1, 20))
    some = made.validation_windows(context, limit)
    assert len(some.tokens) == len(sizes) * min(limit, available)
    assert {row.tobytes() for row in some.tokens} <= {row.tobytes() for row in windows.tokens}
    assert len(np.unique(some.tokens[some.domain == 0][:, 0])) == min(limit, available) or available * context > 256


def test_the_end_of_a_longer_domain_is_drawn_too():
    made = Corpus(Domain(str(n), np.arange(n, dtype=np.uint8), np.zeros(9, np.uint8)) for n in (9, 200))
    batch = made.batch(0, batch_size=5000, context=3, seed=0)
    assert [batch.targets[batch.domain == d].max() for d in range(2)] == [8, 199]


def test_limited_validation_windows_are_spread():
    made = Corpus([Domain("d", np.zeros(9, np.uint8), np.arange(201, dtype=np.uint8))])
    np.testing.assert_array_equal(made.validation_windows(2, limit=4).tokens[:, 0], [0, 50, 100, 150])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.batch(0, batch_size=0, context=4, seed=0), "batch_size must be at least 1, got 0"),
        (lambda c: c.batch(0, batch_size=1, context=0, seed=0), "context must be at least 1, got 0"),
        (lambda c: c.batch(-1, batch_size=1, context=4, seed=0), "non-negative"),
        (
            lambda c: c.batch(0, batch_size=1, context=50, seed=0),
            "'domain 1' has 50 bytes of training .* needs 51",
        ),
        (lambda c: c.validation_windows(50), "'domain 1' has 50 bytes of training .* needs 51"),
        (lambda c: c.validation_windows(0), "context must be at least 1, got 0"),
        (lambda c: c.validation_windows(4, limit=0), "limit must be at least 1, got 0"),
        (lambda c: Corpus([]), "domains with different names"),
        (lambda c: Corpus([*c.domains, c.domains[0]]), "domains with different names"),
    ],
)
def test_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(numbered_corpus(60, 50))


def test_a_validation_text_too_short_is_named():
    made = Corpus([Domain("a", np.zeros(9, np.uint8), np.zeros(4, np.uint8))])
    with pytest.raises(ValueError, match="'a' has 4 bytes of validation text"):
        made.batch(0, batch_size=1, context=4, seed=0)


def test_fingerprint_sees_names_bytes_and_the_split():
    a, b = np.arange(10, dtype=np.uint8), np.arange(5, dtype=np.uint8)
    prints = {
        Corpus([domain]).fingerprint
        for domain in (
            Domain("x", a, b),
            Domain("y", a, b),
            Domain("x", a[::-1], b),
            Domain("x", a[:9], np.append(a[9:], b)),
        )
    }
    assert len(prints) == 4
    assert Corpus([Domain("x", a.copy(), b.copy())]).fingerprint in prints


@given(st.binary(max_size=3000))
def test_held_out_blocks_are_disjoint_and_complete(text):
    train, validation = corpus.hold_out(text)
    assert sorted([*train.tolist(), *validation.tolist()]) == sorted(text)
    assert len(text) / 10 - 8 <= validation.size <= len(text) / 10 + 8


def test_held_out_blocks_are_spread():
    positions = np.repeat(np.arange(80, dtype=np.uint8), 100)
    train, validation = corpus.hold_out(positions.tobytes())
    assert sorted(set(validation.tolist())) == list(range(5, 80, 10))
    assert not set(train.tolist()) & set(validation.tolist())


@given(st.integers(1, 300))
@settings(max_examples=30)
def test_bytes_needed_is_enough_for_one_window(context):
    train, validation = corpus.hold_out(bytes(bytes_needed(context)))
    made = Corpus([Domain("d", train, validation)])
    assert len(made.validation_windows(context).tokens) >= 1


# The built-in text


def test_three_built_in_domains(built_in):
    prose, code, arithmetic = built_in.domains
    assert [d.name for d in built_in.domains] == ["prose", "code", "arithmetic"]
    assert decode(prose.train).count(" the ") > 1000
    assert decode(code.train).count("self.") > 1000
    assert 1e6 < code.train.size + code.validation.size < 2e6
    assert prose.train.size > 200_000
    assert 400_000 < arithmetic.train.size + arithmetic.validation.size < 700_000
    for domain in built_in.domains:
        assert 0.08 < domain.validation.size / (domain.train.size + domain.validation.size) < 0.12


def test_the_built_in_text_is_the_same_each_time(built_in):
    assert default_corpus().fingerprint == built_in.fingerprint


def test_no_built_in_validation_paragraph_is_in_the_training_text(built_in):
    prose = built_in.domains[0]
    train = set(decode(prose.train).split("\n\n"))
    validation = decode(prose.validation).split("\n\n")
    long = [p for p in validation if len(p) > 60]
    assert len(long) > 50
    assert not [p for p in long if p in train]


def test_arithmetic_is_right_and_validation_problems_are_new(built_in):
    arithmetic = built_in.domains[2]
    train, validation = (decode(part).splitlines() for part in (arithmetic.train, arithmetic.validation))
    assert not set(train) & set(validation)
    for line in {*train[:2000], *validation}:
        problem, answer = line.split(" = ")
        assert re.fullmatch(r"[0-9 ()+*-]+", problem)
        assert eval(problem) == int(answer)
    kinds = [sum(1 for line in train if sign(line)) for sign in (
        lambda line: "(" in line,
        lambda line: "*" in line and "(" not in line,
        lambda line: "-" in line,
        lambda line: "+" in line and "(" not in line,
    )]  # fmt: skip
    assert kinds == [9000] * 4


def test_code_is_sorted_capped_and_without_private_modules(tmp_path, monkeypatch):
    for name, size in (
        ("zipfile", 700_000),
        ("abc", 900_000),
        ("json", 800_000),
        ("_private", 9),
        ("tokenize", 5),
    ):
        (tmp_path / f"{name}.py").write_bytes(name[:1].encode() * (size - 2) + b"\r\n")
    (tmp_path / "not_a_standard_module.py").write_text("x")
    text = built_in_text.python_code(tmp_path)
    assert text == b"a" * 899_998 + b"\n\n" + b"j" * 799_998 + b"\n"


def test_code_may_come_from_an_archive(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "library.zip", "w") as archive:
        archive.writestr("abc.py", "one\n")
        archive.writestr("zipfile.py", "two\n")
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path / "nothing"))
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), str(tmp_path / "library.zip")])
    assert built_in_text.python_code() == b"one\n\ntwo\n"


def test_a_python_without_its_source_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(CorpusError, match=r"standard library's source, expected as .*\*\.py; .*--text PATH"):
        default_corpus()


def test_a_python_without_pydoc_data_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(CorpusError, match=r"without the module pydoc_data\.topics; .*--text PATH"):
        default_corpus()


# The user's own text


def test_files_and_folders_become_domains(tmp_path):
    book, folder = tmp_path / "book.txt", tmp_path / "project"
    book.write_text("word " * 100)
    (folder / "b" / "deep").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / "a.py").write_text("first\n" * 50)
    (folder / "b" / "deep" / "c.md").write_text("second\n" * 50)
    (folder / "b" / "z.txt").write_text("größer\n" * 50, encoding="utf-8")
    (folder / ".hidden").write_text("hidden")
    (folder / ".git" / "config").write_text("hidden")
    (folder / "image.png").write_bytes(b"\x89PNG\xff")
    (folder / "nul.txt").write_bytes(b"a\0b")
    os.mkfifo(folder / "pipe")  # reading it would wait for ever
    made = text_corpus([str(book), folder], min_bytes=500)
    assert [d.name for d in made.domains] == ["book", "project"]
    assert [d.skipped for d in made.domains] == [0, 4]
    everything = "first\n" * 50 + "\n" + "größer\n" * 50 + "\n" + "second\n" * 50
    expected = corpus.hold_out(everything.encode())
    np.testing.assert_array_equal(made.domains[1].train, expected[0])
    np.testing.assert_array_equal(made.domains[1].validation, expected[1])


def test_folders_are_read_in_sorted_order(tmp_path):
    letters = "hbfcgade"
    for folder in letters:
        (tmp_path / folder).mkdir()
        for file in letters:
            (tmp_path / folder / file).write_text(f"{folder}{file}".ljust(79))  # with the newline, 80 bytes
    (domain,) = text_corpus([tmp_path], min_bytes=1).domains
    words = [word for word in decode(domain.train).split() if len(word) == 2]
    assert len(words) > 40
    assert words == sorted(words)


def test_equal_names_are_numbered(tmp_path, monkeypatch):
    paths = [
        tmp_path / "a" / "notes",
        tmp_path / "b" / "notes.txt",
        tmp_path / "notes.md",
        tmp_path / "notes-2",
    ]
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    for path in paths:
        path.write_text("x" * 100)
    assert [d.name for d in text_corpus(paths, min_bytes=1).domains] == [
        "notes",
        "notes-2",
        "notes-3",
        "notes-2-2",
    ]
    monkeypatch.chdir(tmp_path / "a")
    assert text_corpus(["."], min_bytes=1).domains[0].name == "a"


def test_every_problem_is_listed_with_its_path(tmp_path):
    (tmp_path / "empty.txt").touch()
    (tmp_path / "binary.txt").write_bytes(b"text\0")
    (tmp_path / "latin.txt").write_bytes("größer".encode("latin-1"))
    (tmp_path / "short.txt").write_text("x" * 99)
    (tmp_path / "fine.txt").write_text("x" * 100)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / ".hidden").write_text("x" * 100)
    names = ["missing.txt", "empty.txt", "binary.txt", "latin.txt", "short.txt", "fine.txt", "folder"]
    with pytest.raises(CorpusError) as caught:
        text_corpus([tmp_path / name for name in names], min_bytes=100)
    assert str(caught.value).split("; ") == [
        f"cannot train on this text: {tmp_path}/missing.txt: does not exist",
        f"{tmp_path}/empty.txt: is empty",
        f"{tmp_path}/binary.txt: is not text (UTF-8 without NUL)",
        f"{tmp_path}/latin.txt: is not text (UTF-8 without NUL)",
        f"{tmp_path}/short.txt: has 99 bytes of text, 100 are needed",
        f"{tmp_path}/folder: holds no text file (1 skipped)",
    ]


def test_what_may_not_be_read_is_refused(tmp_path, monkeypatch):
    # chmod does not stop root, so the system calls fail by hand
    def forbidden(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "secret.txt").write_text("x" * 100)
    (tmp_path / "folder").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.read_bytes", forbidden)
        with pytest.raises(CorpusError, match=r"secret\.txt: cannot be read \(Permission denied\)"):
            text_corpus([tmp_path / "secret.txt"], min_bytes=1)
    with monkeypatch.context() as patch:
        patch.setattr("os.scandir", forbidden)
        with pytest.raises(CorpusError, match=r"folder: cannot be read \(Permission denied\)"):
            text_corpus([tmp_path / "folder"], min_bytes=1)


def test_overlapping_paths_are_refused(tmp_path):
    (tmp_path / "inside.txt").write_text("x" * 100)
    for paths in (
        [tmp_path, tmp_path / "inside.txt"],
        [tmp_path / "inside.txt", tmp_path],
        [tmp_path, tmp_path],
    ):
        with pytest.raises(CorpusError, match=f"{paths[0]} and {paths[1]} overlap"):
            text_corpus(paths, min_bytes=1)
    with pytest.raises(CorpusError, match="no path was given"):
        text_corpus([], min_bytes=1)


@pytest.mark.parametrize("path", ["loop", "pipe", "/dev/zero", ""])
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    os.symlink("loop", "loop")
    os.mkfifo("pipe")
    with pytest.raises(CorpusError, match=r"cannot be read|an empty path"):
        text_corpus([path], min_bytes=1)


def test_what_was_left_out_has_a_reason(tmp_path):
    (tmp_path / "deep" / ".git").mkdir(parents=True)
    (tmp_path / "a.txt").write_text("text " * 100)
    (tmp_path / "deep" / "latin.txt").write_bytes("größer".encode("latin-1"))
    (tmp_path / "nul").write_bytes(b"a\0b")
    (tmp_path / ".hidden").write_text("x")
    os.symlink("nowhere", tmp_path / "broken")
    os.symlink(tmp_path / "deep", tmp_path / "link")
    (domain,) = text_corpus([tmp_path], min_bytes=1).domains
    assert (domain.files, domain.skipped) == (1, 4)
    assert {os.path.relpath(each.path, tmp_path): (each.reason, each.size) for each in domain.left_out} == {
        "deep/latin.txt": ("not UTF-8", 6),
        "deep/.git": ("a hidden folder", 0),
        "nul": ("holds NUL", 3),
        ".hidden": ("hidden", 0),
        "broken": ("not a regular file", 0),
        "link": ("a link to a folder", 0),
    }


def test_text_that_is_not_utf_8_has_no_tokens():
    with pytest.raises(ValueError, match=r"not UTF-8 from position 1 on: b'\\xff'"):
        encode("a\udcff")
    with pytest.raises(ValueError, match=r"not UTF-8 from position 2 on: '\\ud800'"):
        encode("ab\ud800")


def test_bytes_that_the_locale_could_not_read_are_text_if_they_are_utf_8():
    text = "é文".encode().decode("ascii", "surrogateescape")  # an argument under LC_ALL=C
    np.testing.assert_array_equal(encode(text), encode("é文"))
