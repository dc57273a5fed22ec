"""
``make smoke``: check this package against Magic Hour itself, with one image.

It reads the account, makes one image in the cheapest way, waits for it, downloads and checks it, and
deletes the project. It costs 10 credits at most, and asks before it spends them, unless ``CONFIRM=yes``.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_magichour import DEFAULT_BASE_URL
from airflow_provider_magichour.exceptions import MagicHourError

if TYPE_CHECKING:
    from airflow_provider_magichour.hooks import MagicHourHook

TOOL = "ai-image-generator"
BODY = {"name": "smoke test", "image_count": 1, "model": "flux-schnell", "style": {"prompt": "a lighthouse"}}
MAX_CREDITS = 10
#: The longest wait for the image, in seconds.
TIMEOUT = 600


class SmokeError(Exception):
    """The check was not made, or found a fault."""


def main() -> int:
    """Run the check and return the exit code: 0 if all is as it should be."""
    try:
        connection = read_connection(os.environ)
        with tempfile.TemporaryDirectory() as folder:
            # Before the first import of Airflow, so that the check needs no Airflow that is set up.
            os.environ.setdefault("AIRFLOW_HOME", folder)
            os.environ["AIRFLOW_CONN_MAGICHOUR_SMOKE"] = connection
            from airflow_provider_magichour.hooks import MagicHourHook

            check(MagicHourHook("magichour_smoke"), Path(folder))
    except (SmokeError, MagicHourError) as error:
        print(f"The smoke test failed: {error}", file=sys.stderr)
        return 1
    return 0


def read_connection(environment: Mapping[str, str]) -> str:
    """
    Return the connection to Magic Hour that the environment describes.

    :raises SmokeError: if there is no API key.
    """
    key = environment.get("MAGIC_HOUR_API_KEY", "").strip()
    if not key:
        raise SmokeError("set MAGIC_HOUR_API_KEY, from https://magichour.ai/developer?tab=api-keys")
    host = environment.get("MAGIC_HOUR_BASE_URL", DEFAULT_BASE_URL)
    return json.dumps({"conn_type": "magichour", "host": host, "password": key})


def check(hook: MagicHourHook, folder: Path) -> None:
    """
    Make one image, download it into the folder and delete it at Magic Hour.

    :raises SmokeError: if it was not confirmed, or something is not as it should be.
    """
    account = hook.get_account()
    print(f"account: {account.get('email')}, {account.get('credits')} credits, plan {account.get('tier')}")
    confirm(account)
    made = hook.create_project(TOOL, BODY)
    print(f"created: image {made['id']}, {made['credits_charged']} credits")
    charge = made["credits_charged"]
    project = hook.wait_for_project("image", made["id"], timeout=TIMEOUT)
    print(f"finished: {project['status']}")
    [file] = hook.download_project("image", made["id"], str(folder / "media"))
    size = Path(str(file["path"]).removeprefix("file://")).stat().st_size
    print(f"downloaded: {size:,} bytes, {file['content_type']}")
    if not hook.delete_project("image", made["id"]):
        raise SmokeError(f"image {made['id']} was not there to be deleted")
    print("deleted at Magic Hour")
    if isinstance(charge, int | float) and charge > MAX_CREDITS:
        raise SmokeError(f"the image cost {charge} credits, more than {MAX_CREDITS}")
    print("Everything worked.")


def confirm(account: Mapping[str, Any]) -> None:
    """
    Ask whether credits may be spent.

    :raises SmokeError: if they may not, or the account does not have them.
    """
    balance = account.get("credits")
    if not isinstance(balance, int | float) or balance < MAX_CREDITS:
        raise SmokeError(
            f"the account has {balance} credits, fewer than the {MAX_CREDITS} that this may cost"
        )
    if os.environ.get("CONFIRM", "").lower() == "yes":
        return
    if not sys.stdin.isatty():
        raise SmokeError("set CONFIRM=yes to go on without being asked; nothing was spent")
    if input(f"Make one image, for {MAX_CREDITS} credits at most? [yes/no] ").strip().lower() not in {
        "yes",
        "y",
    }:
        raise SmokeError("not confirmed; nothing was spent")


if __name__ == "__main__":
    sys.exit(main())
