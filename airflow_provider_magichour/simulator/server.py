"""The class of the simulator."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import quote

from fastapi import FastAPI

from airflow_provider_magichour.simulator import api_routes, file_routes
from airflow_provider_magichour.simulator.admin import Admin, FaultList
from airflow_provider_magichour.simulator.backend import Backend
from airflow_provider_magichour.simulator.faults import Fault, Faults, Outcome
from airflow_provider_magichour.simulator.media import digest
from airflow_provider_magichour.simulator.middleware import Middleware, Recorder
from airflow_provider_magichour.simulator.runner import Runner
from airflow_provider_magichour.simulator.settings import Settings
from airflow_provider_magichour.simulator.signing import Signer
from airflow_provider_magichour.simulator.webhooks import Webhooks, WebhookTarget


class Simulator:
    """
    A local Magic Hour, running in a thread.

    Use it as a context manager, or call `start` and `stop`.

    :param settings: the fields of `Settings`.
    """

    def __init__(self, **settings: Any) -> None:
        self._signer = Signer()
        self._backend = Backend(Settings(**settings), self._signer)
        recorder, faults = Recorder(), Faults(self.settings.seed)
        webhooks = Webhooks(self._backend, _webhook_target(self.settings), self.settings.seed)
        self._admin = Admin(self._backend, recorder, faults, webhooks)
        api = FastAPI(title="Magic Hour simulator")
        self._admin.add_routes(api)
        api_routes.ApiRoutes(self._backend).add_routes(api)
        files = FastAPI(title="Magic Hour simulator, files", openapi_url=None)
        file_routes.FileRoutes(self._backend, recorder).add_routes(files)
        apps = [
            Middleware(app, name_call, recorder, faults, self.settings.latency)
            for app, name_call in ((api, api_routes.name_call), (files, file_routes.name_call))
        ]
        ports = (self.settings.port, self.settings.downloads_port)
        self._runner = Runner(apps, self.settings.host, ports, recorder, self._admin.close)

    # --------------------------------------------------------------------------------------- addresses

    @property
    def settings(self) -> Settings:
        """Return the settings."""
        return self._backend.settings

    @property
    def url(self) -> str:
        """Return the API's base URL."""
        return self._origin(self._runner.ports[0])

    @property
    def downloads_url(self) -> str:
        """Return the origin of signed download and upload URLs."""
        return self._origin(self._runner.ports[1])

    @property
    def api_key(self) -> str:
        """Return the API key that it accepts."""
        return self.settings.api_key

    @property
    def connection_uri(self) -> str:
        """Return an Airflow connection to it, for ``AIRFLOW_CONN_MAGICHOUR_DEFAULT``."""
        return f"magichour://:{quote(self.api_key, safe='')}@{quote(self.url, safe='')}"

    def _origin(self, port: int) -> str:
        host = self.settings.public_host or self.settings.host
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    # ------------------------------------------------------------------------------------ start and stop

    def start(self) -> Self:
        """
        Start the simulator, and return when it is ready.

        :raises OSError: if a port is taken.
        """
        self._runner.bind()
        self._signer.base_url = self.downloads_url
        self._runner.start()
        return self

    def stop(self) -> None:
        """Close all connections and end the thread."""
        self._runner.stop()

    def offline(self) -> contextlib.AbstractContextManager[None]:
        """Close all connections and refuse new ones within a ``with`` block."""
        return self._runner.offline()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # ------------------------------------------------------------------------------------------- state

    def state(self, *, projects: bool = True) -> dict[str, Any]:
        """
        Return the counters and the state of the simulated Magic Hour.

        :param projects: whether to include each project.
        """
        return self._runner.call(self._admin.state(projects=projects))

    def requests(self, route: str | None = None) -> list[dict[str, Any]]:
        """
        Return the latest requests, oldest first.

        :param route: the name of a route, None for all.
        """
        return self._runner.call(self._admin.requests(route))

    def ledger(self, account_id: str | None = None) -> list[dict[str, Any]]:
        """
        Return all charges and refunds, oldest first.

        Each has ``at``, ``account_id``, ``project_id``, ``tool``, ``entry`` (``charge`` or ``refund``) and
        ``credits``.

        :param account_id: of one account only.
        """
        return self._runner.call(self._admin.ledger(account_id))

    def digests(self, project_id: str) -> dict[str, str]:
        """
        Return the sha256 of each output of a project, by name, even after the project was deleted.

        It is not documented, because only the tests of this package use it.

        :raises KeyError: if there is no such project.
        """
        outputs = self._runner.call(self._admin.outputs(project_id))
        return {name: digest(media) for name, media in outputs}

    # ------------------------------------------------------------------------------------------ changes

    def faults(self, *faults: Mapping[str, Any] | Fault, seed: int | None = None) -> None:
        """
        Add faults after the current ones.

        :param faults: faults with the fields that the reference describes.
        :param seed: makes faults with a ``probability`` happen in the same order in each run.
        :raises pydantic.ValidationError: if a fault has an unknown field or a wrong value.
        """
        self._runner.call(self._admin.add_faults(FaultList.model_validate({"faults": faults, "seed": seed})))

    def clear_faults(self) -> None:
        """Remove all faults."""
        self._runner.call(self._admin.clear_faults())

    def reset(self) -> None:
        """Remove all projects, uploads and faults, and reset the counters and credits."""
        self._runner.call(self._admin.reset())

    def end_project(
        self, project_id: str, status: str = "complete", code: str = "unknown_error", message: str = "Failed"
    ) -> dict[str, Any]:
        """
        End a project now.

        :param status: ``complete``, ``error`` or ``canceled``.
        :param code: the error's code.
        :param message: the error's message.
        :raises KeyError: if there is no such project.
        """
        outcome = Outcome.model_validate({"status": status, "code": code, "message": message})
        return self._runner.call(self._admin.end_project(project_id, outcome))

    def add_account(self, key: str) -> str:
        """
        Add an account with its own credits and projects, and return its id.

        :param key: its API key.
        """
        return self._runner.call(self._admin.add_account(key))["id"]

    def add_api_key(self, key: str) -> None:
        """
        Add an API key to the first account. `api_key` then returns this key. The old key stays valid.

        :param key: the new key.
        """
        self._runner.call(self._admin.add_api_key(key))

    def revoke_api_key(self, key: str) -> None:
        """
        Revoke an API key.

        :raises KeyError: if it is not known.
        """
        self._runner.call(self._admin.revoke_api_key(key))

    def send_webhooks(self, url: str, secret: str, **options: Any) -> None:
        """
        Start to send webhooks to an endpoint.

        :param url: the endpoint.
        :param secret: the secret that they are signed with.
        :param options: ``retry_seconds``, ``timeout``, ``duplicates``, ``shuffle``.
        """
        self._runner.call(self._admin.send_webhooks(WebhookTarget(url=url, secret=secret, **options)))

    def send_event(self, project_id: str, event: Literal["started", "completed", "errored"]) -> None:
        """
        Send a webhook about a project now.

        :raises KeyError: if there is no such project.
        """
        self._runner.call(self._admin.send_event(project_id, event))


def _webhook_target(settings: Settings) -> WebhookTarget | None:
    if settings.webhook_url is None or settings.webhook_secret is None:
        return None
    return WebhookTarget(
        url=settings.webhook_url,
        secret=settings.webhook_secret,
        retry_seconds=settings.webhook_retry_seconds,
        timeout=settings.webhook_timeout,
        duplicates=settings.webhook_duplicates,
        shuffle=settings.webhook_shuffle,
    )
