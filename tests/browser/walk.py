"""
A DAG author's first minutes, in a real browser: connection form, test, run, success, link.

Not collected by ``make test``; ``make test-browser`` runs it. With ``PICTURES=docs/images`` it takes the
pictures of the documentation, so that they show what users see.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from scripts.local import LocalAirflow
from scripts.local.simulator import start_simulator
from tests.support.reviews import wait_for_question

ROOT = Path(__file__).resolve().parents[2]
DAG = "magichour_media_pipeline"
REVIEW = "magichour_review"
HASTY = "magichour_review_hasty"
KEY = "mhk_test_simulator"
# Other tests may keep the machine busy.
expect.set_options(timeout=60_000)

#: What pictures leave out: the graph's small map covers tasks.
HIDDEN = ".react-flow__minimap { display: none }"
#: The most bytes that a picture may have, so that a clone of the repository stays small.
MAX_BYTES = 150_000

OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
]


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the files go, and the view shows them from."""
    return tmp_path_factory.mktemp("stored") / "media"


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory, media: Path) -> Iterator[LocalAirflow]:
    """Start an Airflow without any connection: the user makes it."""
    env = {"AIRFLOW__MAGICHOUR__VIEW_ROOTS": str(media)}
    folders = [ROOT / "example_dags", tmp_path_factory.mktemp("dags")]
    # The review again, for whose answer nobody has time.
    text = (folders[0] / f"{REVIEW}.py").read_text().replace(REVIEW, HASTY)
    assert "timedelta(days=1)" in text
    (folders[1] / f"{HASTY}.py").write_text(text.replace("timedelta(days=1)", "timedelta(seconds=1)"))
    with LocalAirflow(tmp_path_factory.mktemp("airflow"), folders, env=env) as running:
        yield running


@pytest.fixture(scope="module")
def simulator(airflow: LocalAirflow) -> str:
    """Start a local Magic Hour and return its address."""
    start_simulator(airflow.processes, speed_up=20, api_key=KEY)
    ready = json.loads((airflow.processes.log_folder / "simulator.json").read_text())
    return str(ready["url"])


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start the system's Chromium."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert program, "no chromium is installed; on Debian: apt-get install chromium"
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, headless=True, args=OPTIONS)
        yield running
        running.close()


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    """Open one tab that sees this machine and nothing else."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, timezone_id="UTC")
    context.set_default_timeout(30_000)
    # The web app is out of reach here; that the address is right is what counts.
    context.route("https://magichour.ai/**", lambda route: route.fulfill(body="the library"))
    opened = context.new_page()
    yield opened
    context.close()


@pytest.fixture
def take(page: Page, tmp_path: Path) -> Callable[..., None]:
    """Return ``take(name, of=None)``, which takes a small picture of the page or a part of it."""
    folder = Path(os.environ.get("PICTURES") or tmp_path)
    folder = folder if folder.is_absolute() else ROOT / folder
    folder.mkdir(parents=True, exist_ok=True)

    def picture(name: str, of: Locator | None = None) -> None:
        page.wait_for_timeout(700)  # animations end
        taken = Image.open(io.BytesIO((of or page).screenshot(animations="disabled", style=HIDDEN)))
        file = folder / f"{name}.png"
        taken.convert("RGB").quantize(128).save(file, optimize=True)
        assert file.stat().st_size < MAX_BYTES

    return picture


def test_1_the_form_asks_for_what_matters(
    airflow: LocalAirflow, simulator: str, page: Page, take: Callable[..., None]
) -> None:
    page.goto(f"{airflow.url}/connections")
    page.get_by_role("button", name="Add Connection").click()
    form = page.get_by_role("dialog")
    form.locator("input[name=connection_id]").fill("magichour_default")
    form.get_by_role("combobox").fill("Magic Hour")
    page.keyboard.press("Enter")

    for label in ("Base URL", "API key", "Port"):
        expect(form.get_by_text(label, exact=True)).to_be_visible()
    for label in ("Login", "Schema"):
        expect(form.get_by_text(label, exact=True)).to_have_count(0)
    key = form.locator("input[name=password]")
    expect(key).to_have_attribute(
        "placeholder", "mhk_live_... from https://magichour.ai/developer?tab=api-keys"
    )
    expect(key).to_have_attribute("type", "password")
    take("connection-form")

    address = urlsplit(simulator)
    form.locator("input[name=host]").fill(f"{address.scheme}://{address.hostname}")
    form.locator("input[name=port]").fill(str(address.port))
    key.fill(KEY)
    form.get_by_role("button", name="Extra Fields", exact=True).click()
    for label in ("Timeout", "Attempts", "Requests per second", "Webhook secret", "Allow private hosts"):
        expect(form.get_by_text(label, exact=True)).to_be_visible()
    expect(form.locator("input[name=element_webhook_secret]")).to_have_attribute("type", "password")
    form.get_by_role("button", name="Save").click()
    expect(page.get_by_role("row", name="magichour_default")).to_be_visible()


def test_2_the_test_shows_credits_and_plan_or_what_is_wrong(
    airflow: LocalAirflow, page: Page, take: Callable[..., None]
) -> None:
    page.goto(f"{airflow.url}/connections")
    row = page.get_by_role("row", name="magichour_default")
    row.get_by_role("button", name="Test Connection").click()
    expect(page.get_by_text("Connected to Magic Hour: 100000 credits left, plan pro").first).to_be_visible()
    take("connection-test")

    row.get_by_role("button", name="Edit Connection").click()
    form = page.get_by_role("dialog")
    form.locator("input[name=password]").fill("mhk_wrong")
    form.get_by_role("button", name="Save").click()
    expect(form).to_be_hidden()
    page.reload()
    row.get_by_role("button", name="Test Connection").click()
    expect(page.get_by_text("check the API key").first).to_be_visible()

    row.get_by_role("button", name="Edit Connection").click()
    form.locator("input[name=password]").fill(KEY)
    form.get_by_role("button", name="Save").click()
    expect(form).to_be_hidden()


def test_3_the_example_runs_from_the_ui_and_its_tasks_link_to_magic_hour(
    airflow: LocalAirflow, page: Page, media: Path, take: Callable[..., None]
) -> None:
    airflow.wait_for_dag(DAG)
    assert airflow.import_errors() == []
    page.goto(f"{airflow.url}/dags/{DAG}")
    page.get_by_role("button", name="Trigger").first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("What to show")).to_be_visible()
    dialog.locator("[name=element_destination]").fill(str(media))
    dialog.get_by_role("button", name="Trigger", exact=True).click()
    page.wait_for_url("**/runs/manual__*")
    [run] = [each["dag_run_id"] for each in airflow.runs(DAG)]
    assert airflow.wait_for_run(DAG, run) == "success", airflow.failed_task_logs(DAG, run)
    header = page.get_by_role("heading", name=run).locator("..")
    expect(header.get_by_text("Success")).to_be_visible()
    assert {path.suffix for path in media.rglob("*.*")} >= {".png", ".mp4", ".wav"}

    page.reload()
    expect(page.get_by_text("12 Task Instances")).to_be_visible()
    take("run")

    project = airflow.xcom(DAG, run, "image.make")["id"]
    page.goto(f"{airflow.url}/dags/{DAG}/runs/{run}/tasks/image.make/details")
    link = page.get_by_role("link", name="Magic Hour", exact=True)
    expect(link).to_be_visible()
    take("task")
    with page.context.expect_page() as opened:
        link.click()
    assert opened.value.url == f"https://magichour.ai/my-library?imageId={project}"
    opened.value.close()

    page.get_by_role("button", name="Show Graph").click()
    page.get_by_role("button", name="Expand all task groups").click()
    expect(page.get_by_role("application").get_by_text("download").first).to_be_visible()
    page.get_by_role("button", name="Fit View").click()
    take("graph", page.get_by_role("application"))


PIXELS = """image => {
    const canvas = document.createElement("canvas");
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    return new Set(context.getImageData(0, 0, canvas.width, canvas.height).data).size;
}"""
PLAY = """async video => {
    video.muted = true;
    await video.play();
    await new Promise(done => { video.ontimeupdate = () => video.currentTime > 0 && done(); });
    return video.videoWidth;
}"""


def check_accessible(page: Page) -> None:
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_4_the_media_of_a_task_are_one_click_away(airflow: LocalAirflow, page: Page, media: Path) -> None:
    for prompt in ("a fox in fresh snow", "paper boats and lanterns"):
        run = airflow.trigger(DAG, {"destination": str(media), "prompt": prompt, "speech": prompt})
        assert airflow.wait_for_run(DAG, run) == "success", airflow.failed_task_logs(DAG, run)
    first = airflow.runs(DAG)[0]["dag_run_id"]
    page.goto(f"{airflow.url}/dags/{DAG}/runs/{first}/tasks/image.make/details")
    problems: list[str] = []
    page.get_by_role(
        "link", name="Media", exact=True
    ).click()  # opens in this tab, as it is Airflow's own host
    page.wait_for_url("**/magichour/view/?projects=*")
    view = page
    view.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    cards = view.get_by_role("article")
    expect(cards).to_have_count(1)
    picture = cards.get_by_role("img")
    expect(picture).to_have_js_property("complete", value=True)
    assert picture.evaluate(PIXELS) > 10

    view.get_by_role("link", name="Show all media").click()
    expect(cards).to_have_count(9)
    for video in view.locator("video").all():
        assert video.evaluate(PLAY) > 0
        video.evaluate("video => { video.pause(); video.currentTime = 0.5; }")
    check_accessible(view)

    view.get_by_role("radio", name="Images").check()
    expect(cards).to_have_count(3)
    view.get_by_label("State").select_option("Deleted at Magic Hour")  # as the pipeline does in the end
    expect(cards.get_by_text("Deleted at Magic Hour", exact=True)).to_have_count(3)
    view.get_by_label("State").select_option("Failed")
    expect(view.get_by_role("status")).to_contain_text("Nothing is stored here")
    view.get_by_role("button", name="Clear").click()
    expect(cards).to_have_count(9)
    view.get_by_text("credits in all").click()
    expect(view.get_by_role("cell", name=DAG).first).to_be_visible()
    check_accessible(view)

    view.locator(".stage > button").first.click()
    expect(view.get_by_role("dialog")).to_be_visible()
    view.keyboard.press("Escape")
    expect(view.get_by_role("dialog")).to_be_hidden()
    view.get_by_role("link", name="Task image.download").first.click()
    expect(view.get_by_text("image.download").first).to_be_visible()
    view.go_back()
    expect(cards).to_have_count(9)
    assert problems == []


def start_review(airflow: LocalAirflow, media: Path) -> str:
    run = airflow.trigger(REVIEW, {"destination": str(media), "prompt": "neon city in the rain"})
    wait_for_question(airflow, REVIEW, run)
    return run


def end_review(airflow: LocalAirflow, dag_id: str, run: str) -> dict[str, str]:
    assert airflow.wait_for_run(dag_id, run) == "success", airflow.failed_task_logs(dag_id, run)
    return {task["task_id"]: task["state"] for task in airflow.task_instances(dag_id, run)}


def test_5_a_person_chooses_which_draft_is_paid_for(
    airflow: LocalAirflow, page: Page, media: Path, take: Callable[..., None]
) -> None:
    run = start_review(airflow, media)
    page.goto(f"{airflow.url}/dags/{REVIEW}/runs/{run}/tasks/review/required_actions")
    pictures = page.locator("img[src*='/magichour/view/media/']")
    expect(pictures).to_have_count(4)
    for picture in pictures.all():
        picture.scroll_into_view_if_needed()
        expect(picture).to_have_js_property("complete", value=True)
        assert picture.evaluate(PIXELS) > 10
    # More than four options are a list; what counts when the time is over is chosen at first.
    default = page.get_by_text("None of them", exact=True).locator("visible=true").last
    default.locator("..").get_by_role("combobox").fill("Draft 2")
    page.keyboard.press("Enter")
    respond = page.get_by_role("button", name="Respond")
    page.set_viewport_size({"width": 1280, "height": 960})  # the last draft and the whole form fit into it
    respond.scroll_into_view_if_needed()
    take("review")
    page.set_viewport_size({"width": 1280, "height": 800})
    respond.click()
    states = end_review(airflow, REVIEW, run)
    assert [states[f"video_{n}"] for n in range(1, 5)] == ["skipped", "success", "skipped", "skipped"]
    assert (states["rejected"], states["publish"]) == ("skipped", "success")
    assert len(list((media / "published").glob("*.mp4"))) == 1


@pytest.mark.parametrize(
    ("name", "scheme", "width"),
    [("view", "light", 1280), ("view-dark", "dark", 1280), ("view-phone", "dark", 400)],
)
def test_6_the_view_looks_good(
    airflow: LocalAirflow, page: Page, take: Callable[..., None], name: str, scheme: Any, width: int
) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 860})
    page.goto(f"{airflow.url}/magichour/view/")
    page.evaluate("localStorage.removeItem('theme')")
    page.reload()
    expect(page.get_by_role("article")).to_have_count(11)
    # The view does not know the age from which a clean-up deletes, so it does not say that one is due.
    expect(page.get_by_role("article").get_by_text("Still at Magic Hour", exact=True)).to_have_count(2)
    page.wait_for_timeout(3000)  # the videos' first frames
    check_accessible(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if width == 1280:
        take(name)


@pytest.mark.parametrize("dag_id", [REVIEW, HASTY], ids=["rejected", "timed_out"])
def test_7_no_video_is_paid_for_that_nobody_chose(airflow: LocalAirflow, media: Path, dag_id: str) -> None:
    if dag_id == REVIEW:
        run = start_review(airflow, media)
        response = f"/dags/{REVIEW}/dagRuns/{run}/taskInstances/review/-1/hitlDetails"
        airflow.api("PATCH", response, json={"chosen_options": ["None of them"], "params_input": {}})
    else:
        run = airflow.trigger(HASTY, {"destination": str(media)})
    states = end_review(airflow, dag_id, run)
    assert {states[f"video_{n}"] for n in range(1, 5)} == {"skipped"}
    assert (states["rejected"], states["publish"]) == ("success", "skipped")
