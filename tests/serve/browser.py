"""Chromium without a window."""

import shutil
import time
from contextlib import contextmanager

from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
MISSING = None if CHROMIUM and DRIVER else "chromium and chromedriver are not installed"
_QUIET = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
)  # fmt: skip


@contextmanager
def chromium(profile):
    """A browser whose profile and downloads are in a folder."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for each in (*_QUIET, f"--user-data-dir={profile}", "--window-size=1280,900"):
        options.add_argument(each)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(profile)})
        yield Browser(driver, profile)
    finally:
        driver.quit()


class Browser:
    """What the tests do in it."""

    def __init__(self, driver, profile):
        self.driver, self.profile, self.script = driver, profile, driver.execute_script

    def open(self, url, ready="body[data-ready]"):
        self.driver.get(url)
        if ready:
            self.until(lambda: self.all(ready))

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def at(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def click(self, selector):
        self.at(selector).click()

    def text(self, selector):
        return self.script("return document.querySelector(arguments[0]).textContent", selector)

    def texts(self, selector):
        return self.script("return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", selector)

    def shown(self, selector):
        return self.at(selector).is_displayed()

    def fill(self, selector, value):
        """Put a value in place of what a field holds, and leave the field."""
        self.at(selector).clear()
        self.at(selector).send_keys(str(value) + (Keys.TAB if "\n" not in str(value) else ""))

    def choose(self, selector, text):
        Select(self.at(selector)).select_by_visible_text(str(text))

    def set_layer(self, i):
        """As the slider does."""
        self.script(
            "const e = document.getElementById('layer'); e.value = arguments[0];"
            "e.dispatchEvent(new Event('input', {bubbles: true}))",
            i,
        )

    def point_at(self, element):
        ActionChains(self.driver, duration=0).move_to_element(element).perform()

    def press(self, *keys):
        ActionChains(self.driver, duration=0).send_keys(*keys).perform()

    def retype(self, text):
        """Type in place of what the field with the focus holds."""
        keyboard = ActionChains(self.driver, duration=0)
        keyboard.key_down(Keys.CONTROL).send_keys("a").key_up(Keys.CONTROL).send_keys(text).perform()

    def tab_to(self, selector, most=60):
        """Press Tab until the element has the focus, which must be seen at every stop but the body, after the last."""
        for _ in range(most):
            self.press(Keys.TAB)
            found, seen = self.script(
                "const e = document.activeElement;"
                "return [e.matches(arguments[0]), e === document.body || getComputedStyle(e).outlineStyle !== 'none']",
                selector,
            )
            assert seen
            if found:
                return
        raise AssertionError(f"no Tab leads to {selector}")

    def width(self, pixels, height=900):
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": pixels, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )

    def system_theme(self, name):
        features = [{"name": "prefers-color-scheme", "value": name}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def errors(self):
        """What the console said since the last time."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def until(self, condition, seconds=20):
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < end, "it did not happen in time"
            time.sleep(0.05)
        return found
