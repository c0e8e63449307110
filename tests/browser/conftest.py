"""A real browser: the system's Chromium without a window, with its network watched.

Needs `chromium` and `chromium-driver` from the system and the Python package `selenium`; see docs/guide.md.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]  # made_study, contrast


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "browser: needs chromium, chromedriver and selenium")


@dataclass(frozen=True)
class Browser:
    """The driver, and what a page complained of or asked the network for."""

    driver: Any

    def open(self, path: Path | str) -> None:
        self.driver.get_log("performance")
        self.driver.get_log("browser")
        self.driver.get(path if isinstance(path, str) else path.resolve().as_uri())

    def requests(self) -> list[str]:
        """Addresses asked for since `open`, the page's own among them."""
        events = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]

    def complaints(self) -> list[str]:
        return [e["message"] for e in self.driver.get_log("browser")]

    def js(self, code: str, *values: object) -> Any:
        return self.driver.execute_script(code, *values)

    def find(self, css: str) -> Any:
        return self.driver.find_element("css selector", css)

    def all(self, css: str) -> list[Any]:
        return self.driver.find_elements("css selector", css)

    def until(self, code: str, seconds: float = 5) -> Any:
        """Wait for a script to return something true."""
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.driver, seconds, poll_frequency=0.03).until(lambda d: d.execute_script(code))

    def look(self, *, dark: bool = False, width: int = 1280, height: int = 900) -> None:
        """The colour scheme and the size of the window."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


@pytest.fixture(scope="session")
def session() -> Iterator[Browser]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="no browser tests: pip install selenium")
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("no browser tests: install chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    quiet = ("background-networking", "component-update", "sync", "dev-shm-usage", "gpu", "default-apps")
    for flag in ("--headless=new", "--no-sandbox", "--hide-scrollbars", *(f"--disable-{name}" for name in quiet)):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    yield Browser(driver)
    driver.quit()


@pytest.fixture
def browser(session: Browser) -> Browser:
    session.look()
    return session
