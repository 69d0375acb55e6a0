"""A learner solves exercise 01 in JupyterLab, in Chromium, without leaving the notebook."""

import os
import secrets
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import nbformat
import pytest
from selenium.common.exceptions import ElementNotInteractableException, StaleElementReferenceException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from serve.browser import MISSING, chromium

from exercises.catalog import find

PATIENCE = 60  # seconds, for a machine that does much else
PROJECT = Path(__file__).parents[2]
ANSWER = (
    "new = grad.ndim - len(shape); "
    "axes = tuple(i for i in range(grad.ndim) if i < new or (shape[i - new] == 1 and grad.shape[i] != 1)); "
    "return grad.sum(axis=axes, keepdims=True).reshape(shape) if axes else grad"
)
pytestmark = pytest.mark.skipif(bool(MISSING), reason=str(MISSING))


@pytest.fixture
def lab(tmp_path, workspace):
    """The address of a notebook in a JupyterLab that keeps all its files in a folder of its own."""
    pytest.importorskip("jupyterlab", reason="JupyterLab is not installed")
    cells = [nbformat.v4.new_code_cell('import exercises\nexercises.open("01")')]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "P"}})
    nbformat.write(notebook, tmp_path / "solve.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(8)
    own = ("HOME", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR")
    own += ("JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")
    environment = os.environ | {name: str(tmp_path / name) for name in own} | {"PYTHONPATH": str(PROJECT)}
    words = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.port={port}"),
        *("--ServerApp.ip=127.0.0.1", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={tmp_path}"),
        *("--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"),
    ]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(words, env=environment, cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT)
    try:
        began = time.perf_counter()
        while True:
            try:
                urlopen(f"http://127.0.0.1:{port}/api", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, (tmp_path / "log").read_text()
                assert time.perf_counter() - began < 60, (tmp_path / "log").read_text()
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/lab/tree/solve.ipynb?token={token}"
    finally:
        server.terminate()
        try:
            server.wait(timeout=15)
        finally:
            server.kill()
            server.wait()


def test_exercise_01_is_solved_inside_the_notebook(lab, workspace, tmp_path):
    with chromium(tmp_path / "profile") as browser:
        browser.open(lab, ready="")
        browser.until(lambda: browser.all(".jp-Notebook"), PATIENCE)
        click(browser, 0)
        browser.until(lambda: "| Idle" in browser.text("body"), PATIENCE)  # what is run earlier is lost
        run_cell(browser, 0)
        browser.until(lambda: "%%exercise 01" in text_of(browser, 1), PATIENCE)
        click(browser, 1)
        keyboard(browser).key_down(Keys.CONTROL).send_keys(Keys.END).key_up(Keys.CONTROL).perform()
        keyboard(browser).key_down(Keys.SHIFT).send_keys(Keys.HOME).key_up(Keys.SHIFT).perform()
        browser.driver.execute_cdp_cmd("Input.insertText", {"text": ANSWER})
        assert "NotImplementedError" not in text_of(browser, 1)
        run_cell(browser, 1)
        report = browser.until(lambda: browser.all(".jp-CodeCell .jp-RenderedHTMLCommon"), PATIENCE)[0]
        assert "Undo broadcasting ✓ passed" in report.text
    assert ANSWER in workspace.path(find(1)).read_text()
    assert workspace.progress()["01"].passed


def keyboard(browser):
    return ActionChains(browser.driver, duration=0)


def click(browser, cell):
    """As soon as the page is done with it: a cell is drawn more than once while a notebook opens."""

    def done():
        try:
            browser.all(".jp-CodeCell .cm-content")[cell].click()
        except (IndexError, StaleElementReferenceException, ElementNotInteractableException):
            return False
        return True

    browser.until(done, PATIENCE)


def run_cell(browser, cell):
    click(browser, cell)
    keyboard(browser).key_down(Keys.SHIFT).send_keys(Keys.ENTER).key_up(Keys.SHIFT).perform()


def text_of(browser, cell):
    texts = browser.texts(".jp-CodeCell .cm-content")
    return texts[cell] if cell < len(texts) else ""
