"""The alt text where learners read: an exported page, and JupyterLab with a notebook that it does not trust."""

import io
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from base64 import b64encode
from contextlib import contextmanager
from importlib.util import find_spec

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from serve.browser import MISSING, chromium

from moe_numpy import plots

pytestmark = [
    pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
    pytest.mark.skipif(not find_spec("nbconvert"), reason="nbconvert is not installed; it comes with jupyter"),
]
ALT = 'Four bars & "one" fair share'
SOURCE = f"""import numpy as np
from moe_numpy import plots
plots.show(plots.expert_load(np.full((1, 4), 0.25)), alt={ALT!r}, caption="Equal loads")"""
WIDE = 'plots.table([["wide " * 60, 1]], ["text", "number"])'


@pytest.fixture(scope="module")
def notebook():
    made = new_notebook(cells=[new_code_cell(SOURCE), new_code_cell(WIDE)])
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return NotebookClient(made, timeout=60, kernel_name="python3").execute()


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def look(window):
    """Of the only figure: alt text, caption, width on the page, and pixels of the picture; then how the table fits."""
    return window.script("""
        const image = document.querySelector("figure img"), table = document.querySelector("table");
        const around = table.parentElement;
        return [image.alt, document.querySelector("figcaption").textContent, image.clientWidth, image.naturalWidth,
                around.scrollWidth > around.clientWidth + 100, around.clientWidth <= innerWidth,
                table.rows[1].clientHeight < 60]""")


def test_an_exported_page(notebook, window, tmp_path):
    from nbconvert import HTMLExporter

    page = tmp_path / "page.html"
    text = HTMLExporter().from_notebook_node(notebook)[0]
    page.write_text(re.sub(r'<script[^>]*src="http[^>]*>\s*</script>', "", text), encoding="utf-8")  # no network here
    window.open(page.as_uri(), ready="figure img")
    assert look(window) == [ALT, "Equal loads", 800, 960, True, True, True]


def test_the_smaller_svg_draws_the_same(window, tmp_path):
    figure = plots.expert_by_domain(np.random.default_rng(0).dirichlet(np.ones(8), (2, 3)), ["$a_1$", "b", "c"])
    drawn = io.BytesIO()
    figure.savefig(drawn, format="svg")
    before = "data:image/svg+xml;base64," + b64encode(drawn.getvalue()).decode()
    after = re.search('src="([^"]*)"', plots.show(figure, "Shares").data["text/html"])[1]
    window.open("about:blank", ready=None)
    difference = window.driver.execute_async_script(
        """
        const [before, after, done] = arguments, canvas = new OffscreenCanvas(1440, 1), pixels = [];
        const draw = async (source) => {
          const image = new Image(); image.src = source; await image.decode();
          canvas.height = Math.round(1440 * image.naturalHeight / image.naturalWidth);
          const on = canvas.getContext("2d"); on.clearRect(0, 0, 1440, canvas.height);
          on.drawImage(image, 0, 0, 1440, canvas.height);
          return on.getImageData(0, 0, 1440, canvas.height).data;
        };
        (async () => {
          const a = await draw(before), b = await draw(after);
          done([a.length, b.length, a.reduce((sum, v, i) => sum + Math.abs(v - b[i]), 0) / a.length]);
        })();""",
        before, after,
    )  # fmt: skip
    assert after.startswith("data:image/svg+xml")
    assert difference[0] == difference[1] > 10**6
    assert difference[2] < 0.2  # of 255


@pytest.mark.skipif(not find_spec("jupyterlab"), reason="jupyterlab is not installed; it comes with jupyter")
def test_jupyterlab(notebook, window, tmp_path):
    nbformat.write(notebook, tmp_path / "shown.ipynb")
    with lab(tmp_path) as address:
        window.open(address + "/lab/tree/shown.ipynb?token=secret", ready=None)
        window.until(lambda: window.all("figure img") and window.all("td"), seconds=60)
        alt, caption, width, pixels, *fits = look(window)
    assert (alt, caption, pixels) == (ALT, "Equal loads", 960)
    assert 300 < width <= 800
    assert fits == [True, True, True]


@contextmanager
def lab(folder):
    """JupyterLab on this machine's loopback, with settings of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1",
               f"--ServerApp.port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token=secret",
               f"--ServerApp.root_dir={folder}", f"--LabApp.workspaces_dir={folder / 'spaces'}",
               f"--LabApp.user_settings_dir={folder / 'settings'}"]  # fmt: skip
    with open(folder / "log", "w") as log:
        server = subprocess.Popen(command, env=os.environ | own, stdout=log, stderr=log, cwd=folder)
    address = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 60
        while not answers(address):
            assert server.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < end, (folder / "log").read_text()
            time.sleep(0.1)
        yield address
    finally:
        server.kill()  # it has nothing to save
        server.wait()


def answers(address):
    try:
        return urllib.request.urlopen(address + "/api?token=secret", timeout=5).status == 200
    except OSError:
        return False
