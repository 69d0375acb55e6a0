"""What regenerating writes: the outputs of a fresh clone, and nothing that changes by itself."""

import base64
import io

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

from execution import execute
from regenerate import main, small_picture
from rules import NAMES


def png(colour):
    file = io.BytesIO()
    Image.new("RGB", (640, 200), colour).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def figure(colour, *tags):
    output = new_output("display_data", data={"image/png": png(colour)})
    return new_code_cell("", outputs=[output], metadata={"tags": list(tags)})


def run(tmp_path, *sources):
    notebook = new_notebook(cells=[new_code_cell(source) for source in sources])
    nbformat.write(notebook, tmp_path / "some.ipynb")
    return execute(tmp_path / "some.ipynb", threads=1)


@pytest.mark.parametrize(("tags", "colour"), [(["thumbnail"], (0, 0, 255)), ([], (255, 0, 0))])
def test_the_small_picture_is_the_tagged_figure_or_the_first(tags, colour):
    made = small_picture(new_notebook(cells=[figure("red"), figure("blue", *tags)]))
    image = Image.open(io.BytesIO(made)).convert("RGB")
    assert image.size == (320, 100)
    assert image.getpixel((9, 9)) == colour


def test_outputs_are_those_of_a_fresh_clone(tmp_path, monkeypatch):
    monkeypatch.setenv("EXERCISES_WORK", str(tmp_path))  # a learner's own; it must not be seen
    done = run(
        tmp_path,
        'import exercises; exercises.check("11")',
        'import os; print(os.environ["OMP_NUM_THREADS"])',
        "block = bytearray(2**26)",
    )
    report, threads, _ = done.notebook.cells
    assert "edit exercises/work/ex11_top_k.py" in report.outputs[0].data["text/plain"]
    assert len(report.outputs) == 1  # and no echo of the verdict
    assert threads.outputs[0].text == "1\n"
    assert [cell.execution_count for cell in done.notebook.cells] == [1, 2, 3]
    assert not any("execution" in cell.metadata for cell in done.notebook.cells)
    assert set(done.notebook.metadata) == {"kernelspec", "language_info"}
    assert done.peak_bytes > 2**26
    assert not list(tmp_path.glob("ex*"))


def test_of_a_slider_the_text_remains(tmp_path):
    widget = "application/vnd.jupyter.widget-view+json"
    bundle = {widget: {"model_id": "7"}, "text/plain": "a slider"}
    source = f"from IPython.display import display\ndisplay({bundle}, raw=True)"
    assert run(tmp_path, source).notebook.cells[0].outputs[0].data == {"text/plain": "a slider"}


def test_an_error_stops(tmp_path):
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        run(tmp_path, "1 / 0")


def test_an_unknown_number_is_refused(capsys):
    assert main(["99"]) == 2
    assert f"no notebook 99; there are 00 to {NAMES[-1][:2]}" in capsys.readouterr().err
