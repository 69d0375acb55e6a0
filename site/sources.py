"""The library's modules as highlighted pages with numbered lines: what the reference and the notebooks link.

They are no pages of Sphinx, whose theme would take most of the build's time for them.
"""

import html
import posixpath
from pathlib import Path
from typing import Any

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer
from sphinx.pycode import ModuleAnalyzer

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}</title>
<link rel="icon" href="{up}/../_static/favicon.svg">
<link rel="stylesheet" href="{up}/source.css">
</head>
<body>
<main>
<h1>{name}</h1>
<p><a href="{up}/../reference/{reference}.html">Reference</a> · <a href="{up}/../index.html">Home</a></p>
<div tabindex="0" role="region" aria-label="Source">{code}</div>
</main>
</body>
</html>
"""
_CSS = """body { font-family: system-ui, sans-serif; margin: 1.5rem; background: #fff; color: #1a1a1a; }
h1 { font-size: 1.3rem; overflow-wrap: anywhere; } a { color: #0b57a4; }
div[role=region] { overflow-x: auto; } pre { line-height: 1.4; }
.highlight span.linenos { color: #5c5c5c; padding-right: 1em; }
:target, span:has(> a:target) { background: #fff3bf; }
@media (prefers-color-scheme: dark) { body { background: #15181c; color: #e6e6e6; } a { color: #7fb8ff; }
  .highlight span.linenos { color: #a8a8a8; } :target, span:has(> a:target) { background: #4a4220; } }
"""


def setup(app: Any) -> dict[str, bool]:
    """The reference links each object to its lines; see sphinx.ext.linkcode."""
    app.connect("config-inited", lambda app, config: setattr(config, "linkcode_resolve", _place))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def page_of(module: str) -> str:
    """The page of a module's file, below the site's root: ``source/moe_numpy/moe/losses.html`` of ``.../losses.py``."""
    return f"source/{module.removesuffix('.py')}.html"


def write(package: Path, folder: Path, references: list[str]) -> None:
    """Write a page for every module of the package."""
    light, dark = HtmlFormatter(style="default"), HtmlFormatter(style="github-dark")
    styles = [_CSS, light.get_style_defs(".highlight").replace("background: #f8f8f8", "background: #fff")]
    styles.append(f"@media (prefers-color-scheme: dark) {{ {dark.get_style_defs('.highlight')} }}")
    folder.mkdir(parents=True)
    (folder / "source.css").write_text("\n".join(styles), encoding="utf-8")
    formatter = HtmlFormatter(linenos="inline", lineanchors="L", linespans=None)
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package.parent).as_posix()
        page = folder.parent / page_of(name)
        page.parent.mkdir(parents=True, exist_ok=True)
        room = name.split("/")[1]
        text = _PAGE.format(
            name=html.escape(name),
            up="/".join([".."] * name.count("/")),
            reference=room if room in references else "index",
            code=highlight(path.read_text(encoding="utf-8"), PythonLexer(), formatter),
        )
        page.write_text(text, encoding="utf-8")


def _place(domain: str, info: dict[str, str]) -> str | None:
    """Where a page of the reference finds the lines of an object."""
    if domain != "py" or not info["module"]:
        return None
    analyzer = ModuleAnalyzer.for_module(info["module"])
    tag = analyzer.find_tags().get(info["fullname"])
    if tag is None:  # inherited, or a name for something else
        return None
    parts = info["module"].split(".")
    is_package = Path(analyzer.srcname).name == "__init__.py"
    module = "/".join([*parts, "__init__.py"] if is_package else parts)
    return posixpath.join("..", page_of(module)) + f"#L-{tag[1]}"
