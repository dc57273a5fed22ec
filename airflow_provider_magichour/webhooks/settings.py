"""The settings of the receiver, from environment variables and a file. Needs no Airflow."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from airflow_provider_magichour.webhooks.events import split_secrets

PREFIX = "MAGICHOUR_WEBHOOKS_"


class SettingsError(Exception):
    """A setting is missing or wrong; the text names it."""


@dataclass(frozen=True)
class Settings:
    """
    What the receiver needs to know.

    :param airflow_url: the API server's address, without ``/api/v2``.
    :param token: an access token for it; or else a user, who signs in, and again at each 401.
    :param presigned_urls: whether asset events hold the files' presigned URLs.
    :param parallel: how many calls of Airflow run at once; 1 where its database is SQLite.
    :param secrets: the webhook secrets of each connection that webhooks are accepted for.
    """

    airflow_url: str
    token: str = field(default="", repr=False)
    username: str = ""
    password: str = field(default="", repr=False)
    presigned_urls: bool = False
    parallel: int = 4
    secrets: Mapping[str, Sequence[bytes]] = field(default_factory=dict, repr=False)

    @classmethod
    def read(cls, env: Mapping[str, str] = os.environ) -> Settings:
        """
        Read ``MAGICHOUR_WEBHOOKS_...`` variables, and the TOML file that ``..._CONFIG`` names; variables win.

        :raises SettingsError: if one is missing or wrong.
        """
        path = env.get(f"{PREFIX}CONFIG")
        try:
            file = tomllib.loads(Path(path).read_text()) if path else {}
        except (OSError, ValueError) as error:
            raise SettingsError(f"{PREFIX}CONFIG: {path} cannot be read as TOML: {error}") from None
        names = [each.name for each in fields(cls)]
        given: dict[str, Any] = {name: env.get(PREFIX + name.upper()) or file.get(name, "") for name in names}
        if not str(given["airflow_url"]).startswith(("http://", "https://")):
            raise SettingsError(
                f"{PREFIX}AIRFLOW_URL must be the API server's address, http://... or https://..."
            )
        if not (given["token"] or (given["username"] and given["password"])):
            raise SettingsError(f"set {PREFIX}USERNAME and {PREFIX}PASSWORD, or {PREFIX}TOKEN")
        if not str(given["parallel"] or 1).isdecimal():
            raise SettingsError(f"{PREFIX}PARALLEL must be a number")
        given["parallel"] = max(int(given["parallel"] or cls.parallel), 1)
        given["presigned_urls"] = str(given["presigned_urls"]).lower() in {"1", "true", "yes"}
        given["secrets"] = _read_secrets(given["secrets"])
        return cls(**given)

    async def find_secrets(self, conn_id: str) -> Sequence[bytes]:
        """Return the webhook secrets of a connection, none for an unknown one."""
        return self.secrets.get(conn_id, ())


def _read_secrets(value: Any) -> dict[str, Sequence[bytes]]:
    try:
        found = json.loads(value) if isinstance(value, str) else value
        secrets: dict[str, Sequence[bytes]] = {
            conn_id: split_secrets(secret) for conn_id, secret in found.items()
        }
    except (ValueError, AttributeError):
        secrets = {}
    if not secrets or not all(secrets.values()):
        raise SettingsError(f'{PREFIX}SECRETS must be a JSON object: {{"magichour_default": "the secret"}}')
    return secrets
