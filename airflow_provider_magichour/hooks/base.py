"""Sends API calls over an Airflow connection to Magic Hour."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import compress
from typing import TYPE_CHECKING, Any, cast

from airflow.providers.common.compat.sdk import AirflowFailException, BaseHook

from airflow_provider_magichour import DEFAULT_CONN_ID
from airflow_provider_magichour._client import api
from airflow_provider_magichour._client.kinds import not_found_reason, other_kinds
from airflow_provider_magichour.exceptions import (
    MagicHourApiError,
    MagicHourAuthenticationError,
    MagicHourConnectionError,
    MagicHourError,
    MagicHourNotFoundError,
    MagicHourRateLimitError,
    MagicHourServerError,
    batch_error,
)
from airflow_provider_magichour.hooks.connection import get_settings, get_settings_async

if TYPE_CHECKING:
    import requests

    from airflow_provider_magichour._client.settings import Settings
    from airflow_provider_magichour._client.transport import Sender
    from airflow_provider_magichour._validation.projects import ProjectIds


log = logging.getLogger(__name__)


class MagicHourBaseHook(BaseHook):
    """
    Send any call over an Airflow connection.

    :param magichour_conn_id: the connection.
    """

    conn_name_attr = "magichour_conn_id"
    default_conn_name = DEFAULT_CONN_ID
    conn_type = "magichour"
    hook_name = "Magic Hour"

    def __init__(self, magichour_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.magichour_conn_id = magichour_conn_id
        self._changing = threading.Lock()
        self._checking = threading.Lock()
        self._account: Mapping[str, Any] | None = None

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
        """Return the pooled session, which sends the API key only to the API."""
        return self._sender.session

    def test_connection(self) -> tuple[bool, str]:
        """Read the account once, and return whether that succeeded, and a message."""
        from airflow_provider_magichour._client.transport import Sender

        try:
            account = Sender(dataclasses.replace(self.settings, max_attempts=1)).send(api.get_account())
        except MagicHourAuthenticationError as error:
            return False, f"Magic Hour does not know this API key: {error.advice}"
        except MagicHourError as error:
            return False, str(error)
        if not isinstance(account, Mapping) or "credits" not in account:
            return False, f"{self.settings.base_url} responded, but not as Magic Hour does: check the host"
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
        Send any other call of the API, with the same authentication, retries and errors.

        POST and PATCH may cost credits. They are sent again only if they were certainly not accepted.

        :param method: the HTTP method.
        :param path: the path below the base URL, such as ``/v1/saved-items``.
        :param json: the body.
        :param params: the query.
        """
        return self._send(api.custom(method, path, json, params))

    def _send(self, request: api.Request) -> Any:
        """
        Send a call, and once more with the new key if the key was replaced in between.

        Before the first call that may cost credits, the account is checked.
        """
        if not request.repeatable:
            self.check_account()
        sender = self._sender
        try:
            return sender.send(request)
        except MagicHourAuthenticationError:  # a 401 is a certain refusal: nothing is paid for twice
            if not self._has_new_key(sender):
                raise
            return self._sender.send(request)

    def wait_for_rate_limit(self, stopping: threading.Event | None = None) -> None:
        """
        Wait until the connection's rate limit allows one more call.

        :param stopping: ends the wait when it is set.
        """
        self._sender.throttle.acquire(stopping)

    def send_once(self, request: api.Request) -> Any:
        """
        Send a call once, without a retry, except if its key was replaced in between.

        :raises MagicHourError: also if a later try may succeed; ``retry_after`` is then the seconds of the
            response's ``Retry-After``, or None.
        """
        sender = self._sender
        try:
            return sender.send_once(request)
        except MagicHourAuthenticationError:
            if not self._has_new_key(sender):
                raise
            self._account = None
            return self._sender.send_once(request)

    def _has_new_key(self, refused: Sender) -> bool:
        """Return whether the connection has a new key, which a free call checks."""
        if self._sender is refused:
            (result,) = self.send_all([api.get_account()])
            if isinstance(result, MagicHourConnectionError):  # whether the key was replaced is not known
                raise result
        return self._sender is not refused

    def send_all(self, calls: Iterable[api.Request], time_limit: float | None = None) -> list[Any]:
        """
        Send calls that may be repeated in parallel, at the connection's rate.

        After a 401 the connection is read again, and a new key is used from then on.

        :param time_limit: seconds after which the calls without a response are given up; None for never.
        :return: in the same order, the API's response to each, or the :class:`MagicHourError`.
        """
        from airflow_provider_magichour._client.transport import run_async, send_each
        from airflow_provider_magichour._polling.refreshing_sender import RefreshingSender

        calls, present = list(calls), [self.settings]

        async def read_settings() -> Settings:
            return present.pop() if present else self._use(await get_settings_async(self.magichour_conn_id))

        async def send() -> list[Any]:
            async with RefreshingSender(read_settings) as sender:
                return await send_each(sender.send, calls, self.settings.max_connections, time_limit)

        return run_async(send) if calls else []

    def _use(self, settings: Settings) -> Settings:
        with self._changing:
            if settings != self.settings:
                log.info("The connection has changed: continuing with its new key.")
                self.settings = settings
                self.__dict__.pop("_sender", None)
                self._account = None  # the new key may be another account's
        return settings

    # ------------------------------------------------------------------------------------------- account

    def get_account(self) -> dict[str, Any]:
        """Return the account: ``credits``, ``email``, ``id``, ``subscription`` and ``tier``."""
        return cast("dict[str, Any]", self._send(api.get_account()))

    def check_account(self, read: Callable[[], Any] | None = None) -> Mapping[str, Any]:
        """
        Check that Magic Hour itself responds, and return the account. Each hook does this once for each key.

        A create call is sent only after this check, so that a gateway that responds instead of Magic Hour is
        noticed before anything is paid for. Any response in Magic Hour's own form is enough.

        :param read: asks for the account; if None, :meth:`get_account`.
        :return: the account at that time; empty if this API has no such call.
        :raises MagicHourAuthenticationError: if Magic Hour does not know the key.
        :raises MagicHourError: if the response is not from Magic Hour, or there is none; a later try may
            succeed.
        """
        with self._checking:
            if self._account is None:
                self._account = self._read_account(read or self.get_account)
            return self._account

    def _read_account(self, read: Callable[[], Any]) -> Mapping[str, Any]:
        try:
            account = read()
        except (MagicHourAuthenticationError, MagicHourRateLimitError, MagicHourServerError):
            raise
        except MagicHourApiError as error:
            if isinstance(error, AirflowFailException):  # Magic Hour's own refusal, such as a 404
                return {}
            raise MagicHourConnectionError(
                f"Nothing was submitted, because something else than Magic Hour responds: {error}"
            ) from error
        if not isinstance(account, Mapping) or not {"id", "credits"} & account.keys():
            raise MagicHourConnectionError(
                f"Nothing was submitted, because {self.settings.base_url} responds otherwise than Magic Hour "
                "does: check the connection's host, and the proxy on the way"
            )
        return account

    @property
    def account_id(self) -> str | None:
        """Return the id of the key's account; None, with a log line, if it cannot be read."""
        try:
            account_id = self.check_account().get("id")
        except MagicHourError as error:
            log.warning("The account of connection %s could not be read: %s", self.magichour_conn_id, error)
            return None
        return account_id if isinstance(account_id, str) and account_id else None

    def _send_for_each(self, call: Callable[[str, str], api.Request], projects: ProjectIds) -> list[Any]:
        """Send a call for each project; return, in the same order, each result or error."""
        calls = [call(projects.kind, one) for one in projects.ids]
        results: list[Any]
        if projects.is_list:
            results = self.send_all(calls)
        else:
            try:
                results = [self._send(calls[0])]
            except MagicHourError as error:
                results = [error]
        missing = [isinstance(result, MagicHourNotFoundError) for result in results]
        if any(missing):
            reasons = self.explain_not_found(
                projects.kind, list(dict.fromkeys(compress(projects.ids, missing)))
            )
            for position in compress(range(len(results)), missing):
                results[position] = reasons.get(projects.ids[position], results[position])
        return results

    def explain_not_found(self, kind: str, project_ids: Sequence[str]) -> dict[str, MagicHourError]:
        """
        Look for projects that were not found (404) under the other kinds.

        :return: by id, :class:`MagicHourWrongKindError` for a project of another kind, or the error if this
            could not be checked. Projects without an entry exist under no kind.
        """
        calls = [other_kinds(kind, project_id) for project_id in project_ids]
        results = iter(self.send_all([call for each in calls for call in each]))
        reasons = {
            project_id: not_found_reason(kind, project_id, [next(results) for _ in each])
            for project_id, each in zip(project_ids, calls, strict=True)
        }
        return {project_id: reason for project_id, reason in reasons.items() if reason is not None}


def all_or_error(names: Sequence[str], results: list[Any], is_list: bool) -> Any:
    """Return one result, or the list of results; if there are errors, raise them as one."""
    failed = {
        name: result
        for name, result in zip(names, results, strict=True)
        if isinstance(result, MagicHourError)
    }
    if failed:
        raise batch_error(failed, len(names))
    return results if is_list else results[0]
