"""The page in a real browser, where there is one: no error, no alert, live charts."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.report.conftest import HOSTILE

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--window-size=1200,9000",
    "--virtual-time-budget=20000", "--enable-logging=stderr",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")
def test_the_page_lives_and_nothing_hostile_does(hostile: Path, tmp_path: Path) -> None:
    address = (hostile / "report.html").as_uri()
    done = subprocess.run(
        [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path}", "--dump-dom", address],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in done.stderr, done.stderr
    page = done.stdout
    title = re.search(r"<title>(.*?)</title>", page)
    assert title
    assert "pwned" not in title[1].replace("'pwned'", "")
    assert page.count('class="static screen-off"') == page.count('class="static') == 9
    assert "<img" not in re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    # The choice of a domain is made by Vega from the data: its words are text too.
    assert f'<option value="{HOSTILE[0]}"' in page or "&lt;script&gt;alert(1)" in page
