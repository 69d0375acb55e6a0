"""A learner's file as Python reads it, and what else can lie in its place."""

import codecs
import os
import time

import pytest

from exercises.catalog import find
from exercises.grading.grade import grade_file
from exercises.submission import SubmissionError, read_source

SOLUTION = """import numpy as np

def top_k(scores, k):  # grün
    return np.argsort(-scores, axis=1, kind='stable')[:, :k]
"""


@pytest.mark.parametrize(
    "data",
    [
        codecs.BOM_UTF8 + SOLUTION.encode(),
        ("# coding: latin-1\n" + SOLUTION).encode("latin-1"),
        ("#!/usr/bin/python\n# -*- coding: cp1252 -*-\n" + SOLUTION).encode("cp1252"),
        SOLUTION.replace("\n", "\r\n").encode(),
        SOLUTION.replace("\n", "\r").encode(),
    ],
)
def test_a_file_is_read_as_python_reads_it(tmp_path, data):
    path = tmp_path / "mine.py"
    path.write_bytes(data)
    assert "# grün\n" in read_source(path)
    assert grade_file(find(11), path).passed


def pipe(path):
    os.mkfifo(path)


def latin_1(path):
    path.write_bytes(SOLUTION.encode("latin-1"))


REFUSED = {
    "a folder": lambda path: path.mkdir(),
    "a pipe": pipe,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "symbolic links": lambda path: path.symlink_to(path),
    "not there": lambda path: path.symlink_to("nothing"),
    "larger than 512 KiB": lambda path: path.write_bytes(b"#" * 600_000),
    "save it as UTF-8": latin_1,
    "unknown encoding": lambda path: path.write_text("# coding: nonsense\n"),
    "not a text encoding": lambda path: path.write_text("# coding: hex\n"),
    "encoding problem": lambda path: path.write_bytes(codecs.BOM_UTF8 + b"# coding: latin-1\n"),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_no_such_file_earns_nothing_and_is_named(tmp_path, reason):
    path = tmp_path / "mine.py"
    REFUSED[reason](path)
    began = time.perf_counter()
    result = grade_file(find(11), path)
    assert time.perf_counter() - began < 5
    assert result.earned == 0
    assert reason in result.checks[0].problem.message
    assert "\n" not in result.checks[0].problem.message


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_source(tmp_path / "mine.py")


def test_zeros_in_the_source_are_a_problem_of_the_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_bytes(SOLUTION.encode() + b"\0")
    assert "null bytes" in grade_file(find(11), path).checks[0].problem.message


def test_a_socket_is_named(tmp_path):
    import socket

    with socket.socket(socket.AF_UNIX) as s:
        here = os.getcwd()
        os.chdir(tmp_path)  # its name may have only some 100 characters
        s.bind("mine.py")
        os.chdir(here)
    with pytest.raises(SubmissionError, match=r"mine.py is a socket, not a file"):
        read_source(tmp_path / "mine.py")
