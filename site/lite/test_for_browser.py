"""What differs in a notebook of the browser's edition."""

from lite.for_browser import NOT_RUN, SMALLER, for_browser, without_assertions


def notebook(*cells, **metadata):
    title = {"cell_type": "markdown", "id": "title", "metadata": {}, "source": "# Title"}
    made = [{"cell_type": "code", "id": f"c{i}", "source": s, "metadata": m} for i, (s, m) in enumerate(cells)]
    return {"cells": [title, *made], "metadata": {"kernelspec": {"name": "python3"}} | metadata}


def sources(made):
    return ["".join(cell["source"]) for cell in made["cells"]]


def test_the_first_cell_of_code_installs_the_packages():
    made = for_browser(notebook(("x = 1", {}), browser_packages=["scipy"]), ["numpy>=2.1"])
    title, first, last = sources(made)
    assert (title, last) == ("# Title", "x = 1")
    assert 'piplite.install(["numpy>=2.1", "scipy"])' in first
    compile(first.replace("%load_ext", "#"), "first", "exec", flags=0x2000)  # await outside of a function


def test_smaller_sizes_follow_the_cell_that_sets_them():
    made = for_browser(notebook(("STEPS = 9", {"tags": ["parameters"]}), ("STEPS", {}), browser={"STEPS": 2}), [])
    assert sources(made)[2:] == ["STEPS = 9", f"{SMALLER}\nSTEPS = 2", "STEPS"]


def test_a_cell_that_is_not_run_says_why():
    made = for_browser(notebook(("start()", {"not_in_browser": "it starts a process"})), [])
    assert sources(made)[2] == f"{NOT_RUN} it starts a process\nstart()"


def test_assertions_become_comments():
    source = "x = 1\nassert x == (\n    1\n)\nfor y in (1, 2):\n    assert y, 'no'\n"
    source += "if x:\n    x += 1\n    assert x\nprint(x)"
    made = without_assertions(source)
    assert made.splitlines() == [
        "x = 1",
        "# not in the browser: assert x == (",
        "# not in the browser:     1",
        "# not in the browser: )",
        "for y in (1, 2):",
        "    # not in the browser: assert y, 'no'",
        "    pass",
        "if x:",
        "    x += 1",
        "    # not in the browser: assert x",
        "print(x)",
    ]
    exec(made)
