"""The course in a real browser, up to the download of the kernel, which comes from elsewhere."""

import json
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from browser import MISSING, chromium

from serving import SITE, QuietHandler, served

LITE = SITE / "lite"
NOTEBOOKS = sorted(path.name for path in (Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
KERNEL = "@jupyterlite/pyodide-kernel-extension:kernel"
DOWNLOAD = "/elsewhere/pyodide.mjs"  # where the kernel is told to come from, and is not
ITEM = ".jp-DirListing-itemText"
OPEN_NOTEBOOKS = """
const items = [...document.querySelectorAll(arguments[0])];
const folder = items.find(each => each.textContent.trim() === 'notebooks');
folder?.dispatchEvent(new MouseEvent('dblclick', {bubbles: true}));
return items.map(each => each.textContent.trim());
"""
in_chromium = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
asked = []


class _Server(QuietHandler):
    def do_GET(self):
        asked.append(urlsplit(self.path).path)
        if asked[-1] == "/favicon.ico":  # which the browser wants of any site
            self.send_response(204)
            self.end_headers()
        elif asked[-1] == "/lite/jupyter-lite.json":
            settings = json.loads((LITE / "jupyter-lite.json").read_text("utf-8"))
            settings["jupyter-config-data"]["litePluginSettings"][KERNEL]["pyodideUrl"] = DOWNLOAD
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(settings).encode())
        else:
            super().do_GET()


@pytest.fixture(scope="module")
def address():
    with served(_Server) as at:
        yield at


@pytest.fixture
def browser(tmp_path):
    with chromium(tmp_path) as made:
        yield made


def test_the_contents_list_every_notebook():
    listed = json.loads((LITE / "api" / "contents" / "notebooks" / "all.json").read_text("utf-8"))["content"]
    assert sorted(each["name"] for each in listed) == NOTEBOOKS


def test_the_wheel_is_in_the_index_of_the_kernel():
    index = json.loads((LITE / "pypi" / "all.json").read_text("utf-8"))
    (wheel,) = (file for files in index["moe-numpy"]["releases"].values() for file in files)
    names = zipfile.ZipFile(LITE / "pypi" / wheel["filename"]).namelist()
    assert {"moe_numpy/__init__.py", "exercises/grading/in_process.py", "pydoc_data/topics.py"} <= set(names)


def test_what_notebooks_import_lies_beside_them():
    for name in ("tests/moe/mistakes.py", "benchmarks/figure.py", "benchmarks/results/cpu.json"):
        assert (LITE / "files" / name).is_file()


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_installs_the_library_first(name):
    cells = json.loads((LITE / "files" / "notebooks" / name).read_text("utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert 'piplite.install("moe_numpy"' in code[0]


@in_chromium
def test_the_file_browser_lists_the_notebooks_and_the_console_tells_of_no_error(browser, address):
    browser.open(f"{address}/lite/lab/index.html", ready=ITEM)
    browser.until(lambda: sorted(browser.script(OPEN_NOTEBOOKS, ITEM)) == NOTEBOOKS)
    assert [each["message"] for each in browser.driver.get_log("browser") if each["level"] == "SEVERE"] == []


@in_chromium
def test_a_notebook_is_shown_and_its_kernel_is_asked_for(browser, address):
    asked.clear()
    browser.open(f"{address}/lite/lab/index.html?path=notebooks/01_gradients_by_hand.ipynb", ready=".jp-Notebook")
    browser.until(lambda: "Gradients by hand" in browser.script("return document.body.textContent"))
    browser.until(lambda: DOWNLOAD in asked)
    errors = [each["message"] for each in browser.driver.get_log("browser") if each["level"] == "SEVERE"]
    assert [told for told in errors if DOWNLOAD not in told and not told.endswith("Uncaught (in promise)")] == []
