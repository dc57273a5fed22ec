"""The plugin, its setting, a task's link to the view, and the body of a review."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_magichour.links import MOST_PROJECTS, media_url
from airflow_provider_magichour.ui import review_body
from airflow_provider_magichour.ui.roots import view_roots
from tests.ui.conftest import PNG, View, file_of

LOADED = """
import sys
from airflow.providers.common.compat.sdk import AirflowPlugin
before = set(sys.modules)
from airflow_provider_magichour.ui import MagicHourViewPlugin as plugin
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(new & {"fastapi", "starlette", "sqlalchemy", "uvicorn", "fsspec"}))
print([app["url_prefix"] for app in plugin.fastapi_apps], [view["href"] for view in plugin.external_views])
from airflow_provider_magichour.operators import MagicHourGenerateOperator
print(len(MagicHourGenerateOperator.operator_extra_links))
"""


@pytest.fixture
def roots(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return what sets ``view_roots``."""
    return lambda value: monkeypatch.setenv("AIRFLOW__MAGICHOUR__VIEW_ROOTS", value)


@pytest.mark.parametrize(
    ("setting", "printed"),
    [
        ("", ["[]", "[] []", "1"]),
        ("/data", ["[]", "['/magichour/view'] ['/magichour/view/']", "2"]),
        ("s3:/typo", ["[]", "[] []", "2"]),
    ],
)
def test_plugin_costs_nothing_while_it_is_off(setting: str, printed: list[str]) -> None:
    env = {**os.environ, "AIRFLOW__MAGICHOUR__VIEW_ROOTS": setting}
    done = subprocess.run(
        [sys.executable, "-c", LOADED], capture_output=True, text=True, check=False, env=env
    )
    assert done.stdout.splitlines()[-3:] == printed, done.stderr


def test_roots_have_names_of_their_own(roots: Callable[[str], None]) -> None:
    roots("s3://aws@bucket/some/media, file:///data/media,\n/data/other folder, gs://bucket")
    assert view_roots() == {
        "media": "s3://aws@bucket/some/media",
        "media-2": "file:///data/media",
        "other-folder": "/data/other folder",
        "bucket": "gs://bucket",
    }


@pytest.mark.parametrize(
    "bad", ["s3://AKIA123:topsecret@bucket/media", "s3:/topsecret", "https://x/topsecret"]
)
def test_bad_root_is_left_out_and_not_logged(
    roots: Callable[[str], None], bad: str, caplog: pytest.LogCaptureFixture
) -> None:
    roots(f"{bad}, /data/media")
    assert view_roots() == {"media": "/data/media"}
    assert "entry 1 is not a destination" in caplog.text
    assert "topsecret" not in caplog.text


def test_link_of_a_task_names_its_projects(
    roots: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert media_url("dag", "run", ["p1"]) == ""
    roots("/data/media")
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example.com/team")
    start = "https://airflow.example.com/team/magichour/view/"
    assert media_url("dag", "run", ["p1", "p2"]) == f"{start}?projects=p1,p2"
    many = [f"p{n}" for n in range(MOST_PROJECTS + 1)]
    assert media_url("my dag", "manual__1+0", many) == f"{start}?dag=my%20dag&run=manual__1%2B0"


class TestReview:
    def files(self, folder: Any, *names: str) -> list[dict[str, Any]]:
        return [{**file_of("p1", name, PNG), "path": f"{folder}/p1/{name}"} for name in names]

    def test_pictures_are_those_of_the_view(self, view: View, roots: Callable[[str], None]) -> None:
        view.store("p1", {"a.png": PNG})
        roots(str(view.root))
        body = review_body(self.files(f"file://{view.root}", "a.png"))
        _, _, rest = body.partition("![a.png](/magichour/view/")
        assert body.startswith("**Draft 1**\n\n![")
        assert view.get(rest.partition(")")[0]).content == PNG

    def test_each_result_is_a_choice(self, roots: Callable[[str], None]) -> None:
        roots("s3://bucket/media")
        results = [
            {"project": {"id": "p1"}, "files": self.files("s3://aws@bucket/media/2026", "a.png", "b.mp4")}
        ] * 2
        body = review_body(results, label="Option")
        assert body.count("![") == 2
        assert body.count("[b.mp4](/magichour/view/media/media/p1/") == 2
        assert ("**Option 2**" in body, "**Option 3**" in body) == (True, False)
        assert review_body(results[0]).count("**Draft") == 2

    def test_without_the_view_there_are_names_and_links(self, roots: Callable[[str], None]) -> None:
        body = review_body(self.files("/data", "a.png", "b.txt"))
        assert "[a.png](https://magichour.ai/my-library?imageId=p1)" in body
        assert "b.txt" in body
        assert "![" not in body
        roots("/elsewhere")
        assert review_body(self.files("/data", "a.png")).count("magichour/view") == 0
        assert review_body([]) == "There is no file to choose from."

    def test_names_cannot_write_markdown(self, roots: Callable[[str], None]) -> None:
        roots("/data")
        body = review_body(self.files("/data", "a](https:evil)\r\n# <b>![x].png"))
        assert "\r" not in body
        assert "\n# " not in body
        assert "](https:evil)" not in body.replace("\\]\\(https:evil\\)", "")
        assert len(review_body(self.files("/data", *(f"{n}.png" for n in range(60)))).split("**Draft ")) == 51


def test_wheel_has_the_page() -> None:
    import airflow_provider_magichour.ui as package

    names = {path.name for path in (Path(package.__file__).parent / "static").iterdir()}
    assert names == {"icon.svg", "index.html", "view.css", "view.js"}
