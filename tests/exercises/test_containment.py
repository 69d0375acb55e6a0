"""Layers, and what is deleted after a hostile process."""

import os
import platform
import shutil

import pytest

from exercises import containment
from exercises.containment import audit, linux, seccomp
from exercises.grading import folders
from exercises.grading.process import Child


def test_the_list_says_which_layers_are_active():
    assert "audit" in containment.available()
    assert set(containment.available()) <= set(containment.LAYERS)


@pytest.mark.parametrize("layers", [(), ("limits", "audit"), containment.available()])
def test_a_child_says_which_layers_it_entered(monkeypatch, layers):
    monkeypatch.setattr(containment, "available", lambda: layers)
    setup = {
        "attribute": "f",
        "source": "def f(): return 1",
        "file": "f.py",
        "reference": None,
        "preload": [],
        "answer": [],
    }
    with Child("check", setup, 5.0) as child:
        answer = child.ask({"run": "exercises.drivers:call", "cases": [], "timed": False})
    assert answer["outcomes"] == []
    assert sorted(child.layers) == sorted(layers)


def test_a_read_only_view_comes_from_landlock_or_bubblewrap():
    assert containment.read_only(("Landlock", "audit"))
    assert containment.read_only(("bubblewrap",))
    assert not containment.read_only(("seccomp", "limits", "audit"))


def test_without_landlock_bubblewrap_stands_in(monkeypatch):
    monkeypatch.setattr(containment.landlock, "version", lambda: 2)  # knows no truncation
    monkeypatch.setattr(containment.bubblewrap, "works", lambda: True)
    monkeypatch.setattr(containment.seccomp, "works", lambda: False)
    assert containment.available.__wrapped__() == ("bubblewrap", "limits", "audit")


@pytest.mark.skipif(not linux.LINUX, reason="system calls of Linux")
@pytest.mark.parametrize("machine", seccomp._MACHINES)
def test_numbers_of_system_calls_are_named_once(machine):
    numbers = seccomp._MACHINES[machine]
    every = [numbers.clone, *numbers.kill, *numbers.own, *numbers.own_or_none, *numbers.fail]
    assert len(every) == len(set(every))
    program = b"".join(seccomp._program(numbers, 1))
    assert len(program) % 8 == 0
    assert platform.machine() not in seccomp._MACHINES or seccomp.works()


@pytest.mark.parametrize("deep", [3, 100])
def test_folders_without_rights_and_too_deep_for_recursion_are_deleted(tmp_path, monkeypatch, deep):
    made = tmp_path / "made"
    made.mkdir()
    here = os.getcwd()
    os.chdir(made)
    for _ in range(deep):
        os.mkdir("x")
        os.chdir("x")
    os.mkdir("closed", 0)
    os.symlink("/", "link")
    os.chdir(here)
    rmtree = shutil.rmtree

    def of_little_depth(path, **settings):
        if os.path.exists(f"{path}{'/x' * 50}"):
            raise RecursionError
        rmtree(path, **settings)

    monkeypatch.setattr(shutil, "rmtree", of_little_depth)
    folders.delete(str(made))
    assert not made.exists()


def test_the_hook_knows_its_folder(tmp_path):
    folder = str(tmp_path) + os.sep
    messages = (b"write", b"process", b"folder")

    def of_open(path, flags=os.O_RDONLY):
        return audit._of_open(messages, folder, path, None, flags)

    assert of_open(folder + "x", os.O_WRONLY) is None
    assert of_open(os.devnull, os.O_WRONLY) is None
    assert of_open(__file__) is None
    assert of_open(3, os.O_WRONLY) is None
    assert of_open(__file__, os.O_RDONLY | os.O_TRUNC) == b"write"
    assert of_open(folder + "../x", os.O_WRONLY) == b"write"
    assert of_open(os.devnull + "x", os.O_WRONLY) == b"write"
    assert of_open(os.path.dirname(__file__)) == b"folder"
    assert audit._inside(folder, (folder + "x", 3))
    assert not audit._inside(folder, (folder + "x", "/tmp"))
