"""The settings of the receiver, from environment variables and a file. It needs no Airflow."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from airflow_provider_magichour.webhooks.events import split_secrets

PREFIX = "MAGICHOUR_WEBHOOKS_"


class SettingsError(Exception):
    """A setting is missing or wrong. The message names it."""


@dataclass(frozen=True)
class Settings:
    """
    The settings of the receiver.

    :param airflow_url: the API server's address, without ``/api/v2``.
    :param token: an access token. Without it, a user signs in, and signs in again after each 401.
    :param presigned_urls: whether asset events contain the presigned URLs of the files.
    :param parallel: how many calls to Airflow run at once; 1 if its database is SQLite.
    :param secrets: the webhook secrets of each connection that accepts webhooks.
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
        Read the ``MAGICHOUR_WEBHOOKS_...`` variables, and the TOML file that ``..._CONFIG`` names.

        :raises SettingsError: if one is missing or wrong.
        """
        names = {each.name: env.get(PREFIX + each.name.upper()) for each in fields(cls)}
        path = env.get(f"{PREFIX}CONFIG")
        try:
            file = tomllib.loads(Path(path).read_text()) if path else {}
            given: dict[str, Any] = {name: value or file.get(name, "") for name, value in names.items()}
            given["parallel"] = max(int(given["parallel"] or cls.parallel), 1)
        except (OSError, ValueError) as error:
            raise SettingsError(f"{PREFIX}CONFIG or {PREFIX}PARALLEL cannot be read: {error}") from None
        given["presigned_urls"] = str(given["presigned_urls"]).lower() in {"1", "true", "yes"}
        given["secrets"] = _read_secrets(given["secrets"])
        if not re.match("https?://", str(given["airflow_url"])):
            raise SettingsError(f"{PREFIX}AIRFLOW_URL must be the API server's address, http(s)://...")
        if not (given["token"] or (given["username"] and given["password"])):
            raise SettingsError(f"set {PREFIX}USERNAME and {PREFIX}PASSWORD, or {PREFIX}TOKEN")
        if not given["secrets"]:
            raise SettingsError(
                f'{PREFIX}SECRETS must be a JSON object: {{"magichour_default": "the secret"}}'
            )
        return cls(**given)


def _read_secrets(value: Any) -> dict[str, Sequence[bytes]]:
    """Return the secrets of each connection; nothing if they cannot be read, or if one has none."""
    try:
        found = json.loads(value) if isinstance(value, str) else value
        secrets: dict[str, Sequence[bytes]] = {name: split_secrets(each) for name, each in found.items()}
    except (ValueError, AttributeError):
        return {}
    return secrets if all(secrets.values()) else {}
