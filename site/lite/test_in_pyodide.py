"""What the edition counts on, in the Python that its kernel starts, which has no package but its standard library."""

import json
import subprocess
from pathlib import Path

PROGRAM = """
import importlib.util, json, mmap, os, sqlite3, sys, sysconfig, threading, zipfile

with open("/tmp/file", "wb") as file:
    file.write(b"content")
with open("/tmp/file", "rb") as file:
    mapped = mmap.mmap(file.fileno(), 7, access=mmap.ACCESS_READ)
sqlite3.connect(":memory:").execute("create virtual table entries using fts5(text)")
try:
    threading.Thread(target=print).start()
    threads = True
except RuntimeError:
    threads = False
told = json.dumps({
    "platform": sys.platform,
    "cores": os.cpu_count(),
    "threads": threads,
    "mapped": mapped[:].decode(),
    "prose": importlib.util.find_spec("pydoc_data") is not None,
    "code in a folder": os.path.exists(os.path.join(sysconfig.get_path("stdlib"), "abc.py")),
    "code in an archive": any((zipfile.Path(p) / "abc.py").is_file() for p in sys.path if zipfile.is_zipfile(p)),
})
"""


def test_what_the_kernels_python_has():
    node = ["node", str(Path(__file__).with_name("in_pyodide.mjs"))]
    done = subprocess.run(node, input=PROGRAM, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "platform": "emscripten",  # as exercises.grading.in_process asks
        "cores": 1,  # so that no kernel starts a thread
        "threads": False,
        "mapped": "content",
        "prose": False,  # hence pydoc_data in the wheel
        "code in a folder": False,
        "code in an archive": True,
    }
