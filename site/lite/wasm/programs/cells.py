"""Run the code cells of a notebook in order, as the browser's edition has them, all but those that it leaves out.

Pictures are drawn once, as SVG: what is shown of them nobody sees, and to draw takes half of the time.
"""

import contextlib
import io
import json
import os
import sys
import time
import types

from for_browser import NOT_RUN, for_browser

from moe_numpy.plots import showing

name, *left_out = sys.argv[1:]
with open(f"/repository/notebooks/{name}.ipynb", encoding="utf-8") as file:
    cells = for_browser(json.load(file), [])["cells"]
showing._png = lambda *_, **__: b""
module = sys.modules["__main__"] = types.ModuleType("__main__")
os.chdir("/repository/notebooks")
ran, failed, seconds = 0, {}, {}
for cell in cells:
    source = "".join(cell["source"])
    if cell["cell_type"] != "code" or cell["id"] in ("in-the-browser", *left_out) or source.startswith(NOT_RUN):
        continue
    began = time.perf_counter()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(source, f"cell {cell['id']}", "exec"), vars(module))
    except Exception as error:
        failed[cell["id"]] = f"{type(error).__name__}: {error}"
    ran += 1
    seconds[cell["id"]] = round(time.perf_counter() - began, 1)
print(json.dumps({"ran": ran, "failed": failed, "seconds": seconds}))
