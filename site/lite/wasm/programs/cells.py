"""Run the code cells of a notebook in order, all but those that are named; nothing is shown."""

import contextlib
import io
import json
import os
import sys
import types

name, *left_out = sys.argv[1:]
with open(f"/repository/notebooks/{name}.ipynb", encoding="utf-8") as file:
    cells = ["".join(cell["source"]) for cell in json.load(file)["cells"] if cell["cell_type"] == "code"]
module = sys.modules["__main__"] = types.ModuleType("__main__")
os.makedirs("/tmp/notebooks")
os.chdir("/tmp/notebooks")
failed = {}
for number, source in enumerate(cells):
    if str(number) in left_out:
        continue
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(source, f"cell {number}", "exec"), vars(module))
    except Exception as error:
        failed[number] = f"{type(error).__name__}: {error}"
print(json.dumps({"cells": len(cells), "failed": failed}))
