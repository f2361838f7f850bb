"""The page in a real browser, where there is one: no error, no alert, live charts."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from moe_lens.report import catalog

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for path in map(shutil.which, NAMES) if path), "")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--window-size=1200,20000",
    "--virtual-time-budget=20000", "--enable-logging=stderr",
)  # fmt: skip


def opened(page: Path, profile: Path) -> str:
    """The page's elements once its scripts have run; no message may reach the console."""
    done = subprocess.run(
        [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in done.stderr, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")
def test_the_page_lives_and_nothing_hostile_does(hostile: Path, tmp_path: Path) -> None:
    live = 'class="static screen-off"'
    # The clock of a headless browser may run out before a busy machine has drawn a frame.
    for attempt in range(3):
        page = opened(hostile / "report.html", tmp_path / str(attempt))
        if page.count(live):
            break
    assert page.count(live) == len(catalog.FIGURES)
    title = re.search(r"<title>(.*?)</title>", page)
    assert title
    assert title[1].startswith("&lt;/script&gt;&lt;img")
    outside = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert "<img" not in outside
    # Vega made this menu from the data; its words are text too.
    options = re.findall(r'<option value="[^"]*"[^>]*>([^<]*)</option>', outside)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in options
