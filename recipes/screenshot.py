"""The picture of a report in the README and on the site's first page: the answer and the first figure of axis 2 of
runs/first/report.html, as a browser shows them.

    python recipes/screenshot.py [PAGE] [PICTURE]

Needs chromium, chromium-driver, the package selenium and Pillow. Without letters of the system's own it looks a little
different on every machine, so no test compares it; a test keeps it under 150 KB.
"""

from __future__ import annotations

import base64
import io
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WIDTH, SCALE = 1000, 1.5  # of the page in CSS pixels, and picture pixels to one
COLOURS = 64
# [top, height] of the two pieces in CSS pixels: from the top to the end of the answers, axis 2 to its first caption
PIECES = """const end = (css) => document.querySelector(css).getBoundingClientRect().bottom + scrollY;
    const top = document.querySelector('#axis2').getBoundingClientRect().top + scrollY;
    return [[0, end('.answers') + 8], [top, end('#axis2 figcaption') - top + 4]]"""


def take(page: Path) -> bytes:
    """Both pieces, one under the other, as a PNG of few colours."""
    from PIL import Image

    pieces = [Image.open(io.BytesIO(shot)).convert("RGB") for shot in _shots(page)]
    whole = Image.new("RGB", (pieces[0].width, sum(p.height for p in pieces)), "white")
    top = 0
    for piece in pieces:
        whole.paste(piece, (0, top))
        top += piece.height
    out = io.BytesIO()
    whole.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return out.getvalue()


def _shots(page: Path) -> list[bytes]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in ("--headless=new", "--no-sandbox", "--hide-scrollbars", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        size = {"width": WIDTH, "height": WIDTH, "deviceScaleFactor": SCALE, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.get(page.resolve().as_uri())
        clips = [
            {"x": 0, "y": top, "width": WIDTH, "height": height, "scale": 1}
            for top, height in driver.execute_script(PIECES)
        ]
        asked = [{"format": "png", "captureBeyondViewport": True, "clip": clip} for clip in clips]
        return [base64.b64decode(driver.execute_cdp_cmd("Page.captureScreenshot", o)["data"]) for o in asked]
    finally:
        driver.quit()


if __name__ == "__main__":
    page, picture = [*map(Path, sys.argv[1:]), ROOT / "runs/first/report.html", ROOT / "docs/img/report.png"][:2]
    picture.write_bytes(take(page))
    print(f"{picture}: {picture.stat().st_size:,} bytes")
