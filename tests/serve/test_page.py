"""The microscope's page in a real browser: every control, with the mouse and with the keyboard, against the server."""

import json
import time
from importlib import resources

import numpy as np
import pytest
from browser import MISSING, chromium
from published_models import DEEPSEEK, make_published
from selenium.webdriver.common.keys import Keys
from small_servers import Watched, serving, tiny_decoder

from moe_numpy.inference import Decoder
from moe_numpy.models.text import ByteTokenizer
from moe_numpy.pretrained import PublishedTokenizer, from_pretrained
from moe_numpy.serve import Served
from moe_numpy.serve.page import saved_page

pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

LOOK = "/microscope/api/look"
TOKENS, CHIPS = "#tokens .token", "#tokens .token > :last-child"
TEXT = "def add(a, b):"


@pytest.fixture(scope="module")
def watched():
    return Watched(tiny_decoder(context=160, num_experts=12))


@pytest.fixture(scope="module")
def site(watched):
    with serving(Served("tiny", watched, ByteTokenizer()), slots=2) as made:
        yield made


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as made:
        yield made


@pytest.fixture
def page(session, site):
    """The page, which has read its first text; in the end the console must be empty."""
    session.width(1280)
    session.system_theme("light")
    session.open(site.url)
    session.script("document.getElementById('count').value = 4")
    yield session
    assert session.errors() == []


def look(site, text, **changed):
    return site.http.post(LOOK, json={"text": text} | changed).json()


def read(page, text):
    page.fill("#prompt", text)
    page.click("#read")
    page.until(lambda: page.texts(f"{TOKENS} .said") == [visible(c) for c in text])


def visible(character):
    return {" ": "␣", "\n": "↵"}.get(character, character)


def idle(page):
    return page.all("#stop[aria-disabled=true]")


def compared(page, site, **changes):
    """Wait for the comparison, and hold it against the server's."""
    before, after = look(site, TEXT), look(site, TEXT, **changes)
    page.until(lambda: page.text("#loss-after") == f"{after['mean_loss']:.3f}" and page.shown("#compared"))
    assert page.text("#loss-before") == f"{before['mean_loss']:.3f}"
    assert after["mean_loss"] != before["mean_loss"]
    return before, after


def test_first_paint(page, site):
    painted = []
    for _ in range(3):
        page.open(site.url)
        painted.append(page.script("return performance.getEntriesByName('first-contentful-paint')[0].startTime"))
    assert min(painted) < 1000
    blocking = page.script("return performance.getEntriesByType('resource').map(e => e.renderBlockingStatus)")
    assert set(blocking) == {"non-blocking"}


def test_it_opens_with_a_text_that_was_read(page, site):
    told = look(site, page.at("#prompt").get_property("value"))["tokens"]
    assert page.texts(CHIPS) == [str(token["experts"][0][0]) for token in told]
    chosen = [np.bincount(np.ravel([t["experts"][i] for t in told]), minlength=12) for i in range(2)]
    shares = [round(100 * n / count.sum()) for count in chosen for n in count.tolist()]
    page.until(lambda: page.texts("#heat td span") == [str(share) for share in shares])
    assert page.text("#model") == "tiny: 2 layers of 12 experts, top-2"


def test_layers(page, site):
    read(page, TEXT)
    told = look(site, TEXT)["tokens"]
    page.at("#layer").send_keys(Keys.ARROW_RIGHT)
    assert page.text("#layer-name") == "1"
    assert page.texts(CHIPS) == [str(token["experts"][1][0]) for token in told]
    assert page.text("#experts-title") == "Experts of layer 1"


def test_a_token_under_the_mouse_shows_its_experts_and_gate_weights(page, site):
    read(page, TEXT)
    told = look(site, TEXT)["tokens"]
    for position in (4, 9):
        page.point_at(page.all(TOKENS)[position])
        experts, gates = told[position]["experts"][0], told[position]["gates"][0]
        assert page.texts("#token .badge") == [str(expert) for expert in experts]
        assert page.texts("#token .figure") == [f"{gate:.3f}" for gate in gates]
        assert f"position {position} · layer 0 · loss {told[position]['loss']:.2f} nats" in page.text("#token")


def test_text_is_written_while_the_map_fills_and_can_be_stopped(page, site, watched):
    page.fill("#prompt", TEXT)
    page.fill("#count", 140)
    watched.before = lambda *texts: time.sleep(0.05)
    try:
        page.click("#write")
        page.until(lambda: len(page.all(TOKENS)) > len(TEXT) + 3)
        first = page.texts("#heat td span")
        page.until(lambda: page.texts("#heat td span") != first)
        page.click("#stop")
        page.until(lambda: idle(page))
        page.until(lambda: site.engine.busy == 0)
    finally:
        watched.before = lambda *texts: None
    assert len(TEXT) + 3 < len(page.all(TOKENS)) < len(TEXT) + 140
    assert len(page.all(".token.written")) == len(page.all(TOKENS)) - len(TEXT)


def test_what_is_written_is_what_the_server_writes(page, site):
    page.fill("#prompt", TEXT)
    page.fill("#count", 8)
    page.fill("#seed", 3)
    page.click("#write")
    page.until(lambda: len(page.all(TOKENS)) == len(TEXT) + 8 and idle(page))
    told = look(site, TEXT, tokens=8, temperature=0.7, seed=3)["tokens"]
    assert page.texts(CHIPS) == [str(token["experts"][0][0]) for token in told]
    assert page.text("#said") == f"{len(TEXT) + 8} tokens."
    mean = np.mean([token["loss"] for token in told[1:]])
    page.until(lambda: page.text("#text-loss") == f"{len(told)} tokens, loss {mean:.3f} nats per token.")


def test_an_expert_that_is_switched_off_changes_loss_and_text(page, site):
    page.fill("#prompt", TEXT)
    page.fill("#count", 8)
    page.click("#write")
    page.until(lambda: len(page.all(TOKENS)) == len(TEXT) + 8 and idle(page))
    used = look(site, TEXT)["tokens"][0]["experts"][0][0]
    page.all("#experts [role=switch]")[used].click()
    off = [{"layer": 0, "experts": [used]}]
    before, after = compared(page, site, off=off)
    difference = after["mean_loss"] - before["mean_loss"]
    assert page.text("#loss-difference") == f"{'−' if difference < 0 else '+'}{abs(difference):.3f}"
    settings = {"tokens": 8, "temperature": 0.7, "seed": 0}
    assert page.text("#text-before") == look(site, TEXT, **settings)["text"]
    assert page.text("#text-after") == look(site, TEXT, off=off, **settings)["text"]
    changed = [a["loss"] - b["loss"] for a, b in zip(after["tokens"][1:], before["tokens"][1:], strict=True)]
    marks = ["·" if abs(by) < 0.05 else "▲" if by > 0 else "▼" for by in changed]
    assert page.texts("#differences .token > :last-child") == ["·", *marks]
    assert page.all("#experts [role=switch]")[used].get_attribute("aria-checked") == "false"
    assert len(page.all("#heat td.off")) == 1
    page.click("#reset")
    page.until(lambda: not page.shown("#compared"))
    assert page.all("#heat td.off") == page.all("#changes li") == []


def test_a_token_is_pinned(page, site):
    read(page, TEXT)
    page.all(TOKENS)[4].click()
    expert = (look(site, TEXT)["tokens"][4]["experts"][0][0] + 1) % 12
    page.choose("#pin-expert", expert)
    page.click("#pin-form button")
    compared(page, site, pinned=[{"layer": 0, "position": 4, "expert": expert}])
    assert page.texts("#changes li") == [f"layer 0: a at 4 to expert {expert} ×"]
    page.click("#changes button")
    page.until(lambda: not page.shown("#compared"))


def test_another_top_k(page, site):
    read(page, TEXT)
    page.set_layer(1)
    page.fill("#top-k", 1)
    compared(page, site, top_k=[{"layer": 1, "k": 1}])
    page.set_layer(0)
    assert page.at("#top-k").get_property("value") == "2"
    page.set_layer(1)
    page.fill("#top-k", 2)
    page.until(lambda: not page.shown("#compared"))


def test_favourites_of_a_file(page, site, tmp_path):
    text = "the cat sat on the mat. " * 20  # more than a look takes
    (tmp_path / "mine.txt").write_text(text)
    page.at("#file").send_keys(str(tmp_path / "mine.txt"))
    page.until(lambda: page.text("#file-progress") == f"{len(text)} tokens of mine.txt read")
    pieces = [look(site, text[i : i + 160])["tokens"] for i in range(0, len(text), 160)]
    chosen = [(token["token"], expert) for piece in pieces for token in piece for expert in token["experts"][0]]
    page.until(lambda: page.at("#source").get_property("value") == "mine.txt")
    for side, expert in enumerate(sorted({expert for _, expert in chosen})[:2]):
        page.choose(f"#favourites > :nth-child({side + 1}) select", expert)
        share = sum(e == expert for _, e in chosen) / len(chosen)
        lift = {}
        for each in {token for token, _ in chosen}:
            mine = [e == expert for token, e in chosen if token == each]
            if sum(mine) >= 3 and np.mean(mine) > share:
                lift[visible(each)] = f"×{np.mean(mine) / share:.1f}"
        found = page.until(lambda n=side: page.texts(f"#favourites > :nth-child({n + 1}) li"))
        expected = sorted(f"{token}{times}" for token, times in lift.items()) or ["none yet"]
        assert sorted(found) == expected


def test_light_and_dark(page, site):
    def lightness():
        return page.script("return getComputedStyle(document.documentElement).backgroundColor.match(/\\d+/g)[0]")

    assert int(lightness()) > 200
    page.system_theme("dark")
    assert int(lightness()) < 60
    page.until(lambda: page.text("#theme") == "Light mode")
    page.click("#theme")
    assert int(lightness()) > 200
    page.open(site.url)
    assert int(lightness()) > 200
    page.script("localStorage.clear()")


@pytest.fixture
def full(page, site):
    """The page with all that it can show."""
    read(page, TEXT + "x" * 60)
    page.all(TOKENS)[4].click()
    page.all("#experts [role=switch]")[look(site, TEXT)["tokens"][0]["experts"][0][0]].click()
    page.until(lambda: page.shown("#compared"))
    return page


def test_axe_finds_nothing_serious(full):
    full.script((resources.files("axe_playwright_python") / "axe.min.js").read_text("utf-8"))
    for theme in ("light", "dark"):
        full.system_theme(theme)
        told = full.driver.execute_async_script("axe.run().then(arguments[0])")
        assert "color-contrast" in [each["id"] for each in told["passes"]]
        found = [(each["impact"], each["id"]) for each in told["violations"]]
        assert [each for each in found if each[0] in ("serious", "critical")] == []


def test_nothing_is_wider_than_the_window(full):
    for width in (360, 768, 1280, 1600):
        full.width(width)
        assert full.script("return document.documentElement.scrollWidth") <= width


def test_the_keyboard_alone(page, site):
    page.tab_to("#prompt")
    page.retype(TEXT)
    page.tab_to("#count")
    page.retype("6")
    page.tab_to("#layer")
    page.press(Keys.ARROW_RIGHT)
    page.tab_to("#write")
    page.press(Keys.ENTER)
    page.until(lambda: len(page.all(TOKENS)) == len(TEXT) + 6 and idle(page))
    told = look(site, TEXT)["tokens"]
    page.tab_to("#tokens")
    page.press(Keys.END, Keys.HOME, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert page.texts("#token .badge") == [str(expert) for expert in told[2]["experts"][1]]
    active = page.at("#tokens").get_attribute("aria-activedescendant")
    assert page.at(f"#{active}").accessible_name.startswith("f, expert")
    page.tab_to("#pin-expert")
    page.press("5")
    page.tab_to("#pin-form button")
    page.press(Keys.SPACE)
    page.until(lambda: page.texts("#changes li") == ["layer 1: f at 2 to expert 5 ×"])
    page.tab_to("#experts [role=switch]")
    page.press(Keys.SPACE)
    page.until(lambda: len(page.all("#changes li")) == 2 and page.shown("#compared"))
    page.tab_to("#differences")
    page.press(Keys.ARROW_RIGHT)
    assert page.text("#difference").startswith("Position 1: loss")
    page.tab_to("#favourites select")
    page.press("3")
    assert page.text("#favourites .badge") == "3"
    page.tab_to("#theme")
    page.press(Keys.ENTER)
    assert page.text("#theme") == "Light mode"
    page.script("localStorage.clear()")


def test_a_saved_page_needs_no_server(page, site, session, tmp_path):
    read(page, TEXT + " </script>")
    page.all(TOKENS)[0].click()
    chips, heat = page.texts(CHIPS), page.texts("#token .figure")
    page.click("#save")
    path = page.until(lambda: list(session.profile.glob("tiny*.html")))[0]
    page.until(lambda: path.stat().st_size > 0)
    page.open(path.as_uri(), ready=TOKENS)
    page.until(lambda: page.texts(CHIPS) == chips)
    page.until(lambda: page.texts("#token .figure") == heat)
    assert not page.shown("#prompt")
    assert page.script("return performance.getEntriesByType('resource').length") == 0


def test_tokens_without_an_expert_are_marked(page, tmp_path):
    model = {"name": "m", "layers": [{"layer": 3, "kind": "sparse", "num_experts": 2, "selection": "top-1"}]}
    tokens = [{"token": t, "experts": [e], "gates": [[0.5] * len(e)], "loss": None} for t, e in (("a", [1]), ("b", []))]
    texts = [{"name": "one", "prompt_tokens": 2, "tokens": tokens}, {"name": "two", "prompt_tokens": 1, "tokens": []}]
    (tmp_path / "page.html").write_text(saved_page({"model": model, "texts": texts}))
    page.open((tmp_path / "page.html").as_uri(), ready=TOKENS)
    assert page.texts(CHIPS) == ["1", "∅"]
    page.all(TOKENS)[1].click()
    assert "No expert took it" in page.text("#token")
    page.choose("#saved-texts", "two")
    assert page.all(TOKENS) == []


def test_experts_look_different(page):
    looks = page.script(
        "return import('/experts.js').then(({ badge }) => Array.from({ length: 32 }, (_, e) => {"
        "const made = badge(e); return made.textContent + '|' + made.style.cssText + made.dataset.pattern }))"
    )
    numbers, colours = zip(*(each.split("|") for each in looks), strict=True)
    assert numbers == tuple(map(str, range(32)))
    assert len(set(colours)) == 32


def test_an_error_is_told(page, site):
    page.fill("#prompt", "a" * 161)
    page.click("#read")
    page.until(lambda: page.shown("#problem"))
    assert page.text("#problem") == "text has 161 tokens, the context has 160"
    assert len(page.errors()) == 1  # Chromium tells of each status 400
    read(page, TEXT)
    assert not page.shown("#problem")


def test_a_key_is_asked_for(session, watched):
    with serving(Served("tiny", watched, ByteTokenizer()), api_key="secret") as made:
        session.open(made.url, ready=None)
        session.until(lambda: session.shown("#key-form"))
        for key, ready in (("wrong", "#problem:not([hidden])"), ("secret", "body[data-ready]")):
            session.at("#key").clear()
            session.at("#key").send_keys(key, Keys.ENTER)
            session.until(lambda what=ready: session.all(what))
        assert not session.shown("#key-form")
        assert all("401" in each for each in session.errors())


def test_experts_in_files_tell_of_their_cache(session, tmp_path):
    folder = make_published(tmp_path / "model", DEEPSEEK, max_position_embeddings=128)
    decoder = Decoder(from_pretrained(folder, memory=50_000))
    with serving(Served("stored", decoder, PublishedTokenizer.open(folder))) as made:
        session.open(made.url)
        session.until(lambda: "of the experts asked for were in memory" in session.text("#cache"))
        session.click("#read")
        session.until(lambda: not session.text("#cache").startswith("0"))
        cache = made.http.get("/microscope/api/model").json()["layers"][1]["cache"]
        assert 0 < cache["hits"] < cache["requests"]
        assert session.shown("#cache")
    assert session.errors() == []


def test_a_dense_model_says_so(session):
    with serving(Served("dense", tiny_decoder(num_experts=0), ByteTokenizer())) as made:
        session.open(made.url, ready=None)
        session.until(lambda: session.shown("#problem"))
        assert session.text("#problem") == "this model is dense: it has no experts to look at"
    assert session.errors() == []


def test_what_a_saved_page_holds_cannot_end_its_script():
    page = saved_page({"model": {}, "texts": [{"name": "</script><!--"}]})
    held = page.split('id="saved">')[1].split("</script>")[0]
    assert json.loads(held)["texts"][0]["name"] == "</script><!--"
