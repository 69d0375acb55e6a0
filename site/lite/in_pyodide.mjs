// Run a program of Python in the kernel's own, without a browser, and print what it leaves in `told`.
import { readFileSync } from "node:fs";

import { loadPyodide } from "../node_modules/pyodide/pyodide.mjs";

const pyodide = await loadPyodide();
pyodide.runPython(readFileSync(0, "utf-8"));
console.log(pyodide.globals.get("told"));
