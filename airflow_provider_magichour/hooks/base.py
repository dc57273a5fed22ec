"""The Airflow connection to Magic Hour: what every call of its API goes over."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from airflow.providers.common.compat.sdk import BaseHook

from airflow_provider_magichour._client import api
from airflow_provider_magichour.exceptions import MagicHourAuthenticationError, MagicHourError
from airflow_provider_magichour.hooks.connection import get_settings

if TYPE_CHECKING:
    import requests

    from airflow_provider_magichour._client.settings import Settings
    from airflow_provider_magichour._client.transport import Sender


log = logging.getLogger(__name__)


class MagicHourBaseHook(BaseHook):
    """
    Send any call over an Airflow connection.

    :param magichour_conn_id: the connection.
    """

    conn_name_attr = "magichour_conn_id"
    default_conn_name = "magichour_default"
    conn_type = "magichour"
    hook_name = "Magic Hour"

    def __init__(self, magichour_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.magichour_conn_id = magichour_conn_id
        self._rereading = threading.Lock()

    @cached_property
    def settings(self) -> Settings:
        """
        Read the connection.

        :raises MagicHourConnectionNotFoundError: if there is no such connection.
        :raises MagicHourArgumentError: if the connection's key, host or extra is not usable.
        """
        return get_settings(self.magichour_conn_id)

    @cached_property
    def _sender(self) -> Sender:
        from airflow_provider_magichour._client.transport import Sender

        return Sender(self.settings)

    def get_conn(self) -> requests.Session:
        """Return the pooled session; it signs what goes to the API, and nothing else."""
        return self._sender.session

    def test_connection(self) -> tuple[bool, str]:
        """Ask for the account, once, and say what came of it."""
        from airflow_provider_magichour._client.transport import Sender

        try:
            account = Sender(dataclasses.replace(self.settings, max_attempts=1)).send(api.get_account())
        except MagicHourAuthenticationError as error:
            return False, f"Magic Hour does not know this API key: {error.advice}"
        except MagicHourError as error:
            return False, str(error)
        if not isinstance(account, Mapping) or "credits" not in account:
            return False, f"{self.settings.base_url} answered, but not as Magic Hour does: check the host"
        plan = account.get("tier") or "unknown"
        return True, f"Connected to Magic Hour: {account['credits']} credits left, plan {plan}"

    def request(
        self,
        method: str,
        path: str,
        json: Any = None,
        params: Mapping[str, str | int | float] | None = None,
    ) -> Any:
        """
        Make any other call of the API, with the same authentication, retries and errors.

        POST and PATCH are taken for calls that may cost credits: they are sent again only where they
        were certainly not accepted.

        :param method: the HTTP method.
        :param path: the path below the base URL, such as ``/v1/saved-items``.
        :param json: the body.
        :param params: the query.
        """
        return self._send(api.custom(method, path, json, params))

    def _send(self, request: api.Request) -> Any:
        """Send a call; where its key was replaced meanwhile, again with the new one."""
        sender = self._sender
        try:
            return sender.send(request)
        except MagicHourAuthenticationError:  # a 401 is a certain refusal: nothing is paid for twice
            if not self._has_new_key(sender):
                raise
            return self._sender.send(request)

    def _has_new_key(self, refused: Sender) -> bool:
        """Read the connection again after a 401 and take its new key over, if it has one."""
        from airflow_provider_magichour._client.transport import Sender

        with self._rereading:
            if self._sender is not refused:
                return True  # another thread was here before
            try:
                settings = get_settings(self.magichour_conn_id)
            except Exception:  # whatever the secrets backend raises: the 401 is what went wrong
                log.warning("The connection could not be read again after a 401", exc_info=True)
                return False
            if settings.api_key == refused.settings.api_key:
                return False
            log.info("The API key was replaced meanwhile: going on with the connection's new one.")
            self.settings = settings
            self._sender = Sender(settings)
            return True

    def send_all(self, calls: Iterable[api.Request]) -> list[Any]:
        """
        Send calls that may be repeated side by side, at the connection's rate.

        :return: in their order, what the API answered to each, or the :class:`MagicHourError`.
        """
        from airflow_provider_magichour._client.transport import send_all

        calls, sender = list(calls), self._sender
        answers = send_all(sender.settings, calls)
        refused = [n for n, answer in enumerate(answers) if isinstance(answer, MagicHourAuthenticationError)]
        if refused and self._has_new_key(sender):
            again = send_all(self.settings, [calls[n] for n in refused])
            for n, answer in zip(refused, again, strict=True):
                answers[n] = answer
        return answers

    def get_account(self) -> dict[str, Any]:
        """Return the account: ``credits``, ``email``, ``id``, ``subscription`` and ``tier``."""
        return cast("dict[str, Any]", self._send(api.get_account()))
