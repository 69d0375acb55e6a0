"""The site in a real browser: no error in its console, search, the dark theme, and axe-core's judgement."""

import pytest
from browser import MISSING, chromium
from selenium.webdriver.common.keys import Keys

from serving import SITE as HTML
from serving import served

pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

MAIN = (
    "README.html",
    "docs/paths.html",
    "notebooks/04_experts_and_dispatch.html",
    "exercises/README.html",
    "exercises/list.html",
    "docs/notation.html",
    "bibliography.html",
    "reference/gradcheck.html",
    "source/moe_numpy/moe/one_page.html",
    "slides/index.html",
)
AXE = (HTML.parents[1] / "node_modules" / "axe-core" / "axe.min.js").read_text("utf-8")


@pytest.fixture(scope="module")
def address():
    with served() as at:
        yield at


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as made:
        yield made


@pytest.fixture
def browser(session):
    """The browser, whose console must tell of no error in the end."""
    session.driver.get("about:blank")
    session.driver.get_log("browser")
    yield session
    assert [told for told in session.driver.get_log("browser") if told["level"] == "SEVERE"] == []


def in_theme(browser, theme):
    """Switch at once: a colour on its way from one theme to the other has too little contrast."""
    browser.script(
        "const style = document.createElement('style');"
        "style.textContent = '*, ::before, ::after { transition: none !important; }';"
        "document.head.append(style);"
        "getComputedStyle(document.body).color;"
        "Object.assign(document.documentElement.dataset, {mode: arguments[0], theme: arguments[0]});",
        theme,
    )
    browser.system_theme(theme)


@pytest.mark.parametrize("name", MAIN)
def test_axe_finds_nothing_serious(browser, address, name):
    browser.open(f"{address}/{name}", ready="h1, h2")
    browser.script(AXE)
    for theme in ("light", "dark"):
        in_theme(browser, theme)
        told = browser.driver.execute_async_script("axe.run({preload: false}).then(arguments[0])")
        found = [
            (each["impact"], each["id"], [node["html"][:200] for node in each["nodes"]][:3])
            for each in told["violations"]
        ]
        assert [each for each in found if each[0] in ("serious", "critical")] == []


def test_search_finds_a_word(browser, address):
    browser.open(f"{address}/search.html?q=SparseMixer", ready="#search-results li a")
    assert any("reference/" in link.get_attribute("href") for link in browser.all("#search-results li a"))


def test_search_puts_the_notebook_before_the_code(browser, address):
    browser.open(f"{address}/search.html?q=capacity", ready="#search-results li a")
    assert browser.all("#search-results li a")[0].get_attribute("href").startswith(f"{address}/notebooks/06_")


@pytest.mark.parametrize("name", [*MAIN, "reference/moe.html", "docs/glossary.html", "genindex.html"])
def test_no_page_is_wider_than_a_telephone(browser, address, name):
    browser.width(390)
    try:
        browser.open(f"{address}/{name}", ready="h1, h2")
        page, screen = browser.script("const e = document.documentElement; return [e.scrollWidth, e.clientWidth]")
    finally:
        browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert page <= screen


def test_the_field_of_the_search_opens_by_a_key(browser, address):
    browser.open(f"{address}/README.html", ready="h1")
    browser.press(Keys.CONTROL, "k")
    browser.until(lambda: browser.all("input[type=search]"))


def test_the_theme_changes(browser, address):
    browser.open(f"{address}/README.html", ready="button.theme-switch-button")
    seen = set()
    for _ in range(3):
        browser.script("document.querySelector('button.theme-switch-button').click()")
        seen.add(browser.script("return getComputedStyle(document.body).backgroundColor"))
    assert len(seen) == 2


def test_formulas_are_set(browser, address):
    browser.open(f"{address}/notebooks/05_balance.html", ready="mjx-container")
    assert len(browser.all("mjx-container")) > 5


def test_the_figures_load(browser, address):
    browser.open(f"{address}/notebooks/04_experts_and_dispatch.html", ready="img[src*='figures/']")
    browser.script("document.querySelectorAll('img').forEach(each => { each.loading = 'eager'; })")
    empty = "return [...document.images].filter(i => !(i.complete && i.naturalWidth > 0)).map(i => i.src)"
    browser.until(lambda: browser.script(empty) == [])


def test_the_contents_list_every_notebook(browser, address):
    browser.open(f"{address}/README.html", ready="nav.bd-links")
    listed = set(browser.script("return [...document.querySelectorAll('nav.bd-links a')].map(a => a.href)"))
    notebooks = {f"{address}/notebooks/{path.name}" for path in (HTML / "notebooks").glob("[0-9]*.html")}
    assert len(notebooks) >= 12
    assert notebooks <= listed


def test_the_slides_turn(browser, address):
    browser.open(f"{address}/slides/index.html", ready=".reveal.ready")
    browser.press(Keys.ARROW_RIGHT)
    browser.press(Keys.ARROW_DOWN)
    browser.until(lambda: browser.all("section.present section.present img"))
