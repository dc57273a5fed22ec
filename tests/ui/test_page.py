"""The page in a browser, where receipts say what a browser may run. Needs `make test-browser`'s Chromium."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from tests.ui.conftest import PNG, View

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")

HOSTILE = [
    "<img src=x onerror=alert(1)>",
    '"><script>alert(1)</script>',
    "' onmouseover='alert(1)",
    "javascript:alert(1)",
    "{{constructor.constructor('alert(1)')()}}",
    "</title><svg/onload=alert(1)>",
    "\u202eevil\u2066\x07",
    "../../../etc/passwd",
]


@pytest.fixture
def page() -> Any:
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser.new_page()
        browser.close()


def test_what_receipts_say_is_never_run(view: View, page: Any) -> None:
    for n, text in enumerate(HOSTILE):
        names = ("name", "prompt", "tool", "kind", "error_message", "status")
        by = {"dag_id": "readable", "run_id": text, "task_id": text, "map_index": n}
        view.store(f"p{n}", **dict.fromkeys(names, text), downloaded_by=by)
        view.write_entry(f"f{n}", [], status="error", error_code=text, error_message=text)
    view.store("q", {"a b'\"<b>.png": PNG})
    ran: list[str] = []
    problems: list[str] = []
    page.on("dialog", lambda dialog: (ran.append(dialog.message), dialog.dismiss()))
    page.on("console", lambda said: problems.append(said.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    name, _, value = view.cookie("reader").partition("=")
    page.context.add_cookies([{"name": name, "value": value, "url": view.url}])
    page.goto(f"{view.url}?dag={HOSTILE[0]}&projects=")
    page.goto(view.url)
    playwright.expect(page.get_by_role("article")).to_have_count(2 * len(HOSTILE) + 1, timeout=30_000)
    page.locator("#credits summary").click()
    for title in page.get_by_role("heading", level=2).all():
        title.hover()
    assert not ran
    assert page.locator("#wall script, #wall svg, #wall [onerror], #wall [onmouseover]").count() == 0
    links = page.locator("#wall a").evaluate_all("all => all.map(one => one.href)")
    begun = view.url.partition("/magichour/")[0]
    assert links
    assert all(link.startswith(f"{begun}/dags/readable") for link in links)
    assert all("passwd" not in link or "..%2F" in link for link in links)
    assert not [text for text in problems if "Content Security Policy" in text or "Error" in text], problems
