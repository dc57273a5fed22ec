"""The setting ``[magichour] view_roots``: the places that the view may show."""

from __future__ import annotations

import logging
import re
from urllib.parse import urlsplit

from airflow.providers.common.compat.sdk import conf

from airflow_provider_magichour._transfer.locations import LOCAL_SCHEMES, check_location
from airflow_provider_magichour.exceptions import MagicHourArgumentError

log = logging.getLogger(__name__)


def view_roots() -> dict[str, str]:
    """Return the destinations of the view by their names in its pages. If there are none, the view is off."""
    found: dict[str, str] = {}
    text = str(conf.get("magichour", "view_roots", fallback="") or "")
    for number, part in enumerate(filter(None, map(str.strip, re.split(r"[,\n]", text))), 1):
        try:
            root = check_location(part, "view_roots")
        except MagicHourArgumentError:
            root = ""
        if not root or urlsplit(root).password is not None:
            # without its text, which may contain credentials
            log.error(
                "[magichour] view_roots: entry %s is not a destination such as s3://conn_id@bucket/media or "
                "/data/media, or contains credentials instead of a connection's id. The view ignores it",
                number,
            )
            continue
        word = re.sub(r"[^A-Za-z0-9_-]+", "-", plain_location(root).rpartition("/")[2]) or "root"
        name, count = word, 1
        while name in found:
            count += 1
            name = f"{word}-{count}"
        found[name] = root
    return found


def plain_location(location: str) -> str:
    """Return a path or URL without the connection, and without ``file://``."""
    scheme, is_url, rest = location.partition("://")
    if not is_url:
        return location.rstrip("/")
    host, slash, path = rest.partition("/")
    start = "" if scheme in LOCAL_SCHEMES else f"{scheme}://{host.rpartition('@')[2]}"
    return f"{start}{slash}{path}".rstrip("/")
