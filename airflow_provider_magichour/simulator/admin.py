"""The simulator's own calls below ``/_simulator``: define faults, read the state, end a project."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from fastapi import APIRouter, Body, FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict

from airflow_provider_magichour.simulator.backend import Backend
from airflow_provider_magichour.simulator.faults import Fault, Faults, Outcome
from airflow_provider_magichour.simulator.media import Media
from airflow_provider_magichour.simulator.middleware import Recorder
from airflow_provider_magichour.simulator.models import Project
from airflow_provider_magichour.simulator.webhooks import Webhooks, WebhookTarget

Event: TypeAlias = Literal["started", "completed", "errored"]


class FaultList(BaseModel):
    """Faults to add."""

    model_config = ConfigDict(extra="forbid")

    faults: list[Fault]
    seed: int | None = None


class Admin:
    """
    The calls of a test to the simulator, over HTTP or with :class:`Simulator`. They run in the event loop.

    :param backend: the simulated Magic Hour.
    :param recorder: counts the requests.
    :param faults: the current faults.
    :param webhooks: sends webhooks.
    """

    def __init__(self, backend: Backend, recorder: Recorder, faults: Faults, webhooks: Webhooks) -> None:
        self._backend = backend
        self._recorder = recorder
        self._faults = faults
        self._webhooks = webhooks

    def add_routes(self, app: FastAPI) -> None:
        """Add all routes to an application."""
        router = APIRouter(prefix="/_simulator")
        router.get("/state")(self.state)
        router.get("/requests")(self.requests)
        router.get("/ledger")(self.ledger)
        router.get("/faults")(self.list_faults)
        router.post("/faults")(self.add_faults)
        router.delete("/faults")(self.clear_faults)
        router.post("/reset")(self.reset)
        router.post("/projects/{project_id}")(self.end_project)
        router.post("/projects/{project_id}/webhook")(self.send_event)
        router.post("/accounts")(self.add_account)
        router.post("/api-keys")(self.add_api_key)
        router.delete("/api-keys/{key}")(self.revoke_api_key)
        router.put("/webhooks")(self.send_webhooks)
        router.delete("/webhooks")(self.stop_webhooks)
        app.include_router(router)
        app.add_exception_handler(KeyError, _unknown)

    # ------------------------------------------------------------------------------------------- state

    async def state(self, *, projects: bool = True) -> dict[str, Any]:
        """Return the counters and the state of the simulated Magic Hour."""
        backend, recorder = self._backend, self._recorder
        found: dict[str, Any] = {
            "requests": dict(recorder.requests),
            "statuses": dict(recorder.statuses),
            "created": dict(backend.created),
            "warnings": list(backend.warnings),
            "leaked_keys": recorder.leaked_keys,
            "connections": {
                "open": recorder.open_connections,
                "opened": recorder.connections,
                "most_open": recorder.most_connections,
            },
            "in_flight": {"now": recorder.in_flight, "most": recorder.most_in_flight},
            "credits": backend.account.credits,
            "accounts": [
                {
                    "id": account.id,
                    "credits": account.credits,
                    "charged": account.total("charge"),
                    "refunded": account.total("refund"),
                }
                for account in backend.all_accounts
            ],
            "uploads": {
                upload["file_path"]: {name: value for name, value in upload.items() if name != "file_path"}
                for upload in backend.uploads.values()
            },
            "faults": self._faults.describe(),
            "webhooks": list(self._webhooks.deliveries),
        }
        if projects:
            found["projects"] = {key: _describe(project) for key, project in backend.projects.items()}
        return found

    async def requests(self, route: str | None = None, limit: int = 20_000) -> list[dict[str, Any]]:
        """Return the latest requests, oldest first."""
        kept = [entry for entry in self._recorder.log if route in {None, entry["route"]}]
        return kept[-limit:] if limit else []

    async def ledger(self, account_id: str | None = None) -> list[dict[str, Any]]:
        """Return all charges and refunds of one account, or of all accounts, oldest first."""
        lines = [
            {"account_id": account.id, **line}
            for account in self._backend.all_accounts
            if account_id in {None, account.id}
            for line in account.ledger
        ]
        return sorted(lines, key=lambda line: float(line["at"]))

    async def outputs(self, project_id: str) -> list[tuple[str, Media]]:
        """Return a project's outputs with their names, even after the project was deleted."""
        project = self._backend.projects[project_id]
        return list(zip(project.names, project.outputs, strict=True))

    # ----------------------------------------------------------------------------------- changes

    async def list_faults(self) -> list[dict[str, Any]]:
        """Return the current faults."""
        return self._faults.describe()

    async def add_faults(self, faults: FaultList | list[Fault]) -> list[dict[str, Any]]:
        """Add faults after the current ones, and return all."""
        if isinstance(faults, list):
            faults = FaultList(faults=faults)
        if faults.seed is not None:
            self._faults.reseed(faults.seed)
        self._faults.add(faults.faults)
        return self._faults.describe()

    async def clear_faults(self) -> None:
        """Remove all faults."""
        self._faults.clear()

    async def reset(self) -> None:
        """Remove all projects, uploads and faults, and reset the counters and credits."""
        self._faults.clear()
        self._backend.reset()
        self._recorder.reset()
        self._webhooks.forget()

    async def close(self) -> None:
        """Stop timers and close connections before the event loop ends."""
        self._backend.reset()
        await self._webhooks.close()

    async def end_project(self, project_id: str, outcome: Outcome) -> dict[str, Any]:
        """End a project now."""
        project = self._backend.projects[project_id]
        project.statuses.clear()
        self._backend.end(project, outcome)
        return _describe(project)

    async def add_account(self, key: Annotated[str, Body(embed=True)]) -> dict[str, str]:
        """Add an account, and return its id."""
        return {"id": self._backend.add_account(key).id}

    async def add_api_key(self, key: Annotated[str, Body(embed=True)]) -> None:
        """Add a key to the first account."""
        self._backend.add_api_key(key)

    async def revoke_api_key(self, key: str) -> None:
        """Remove a key."""
        self._backend.revoke_api_key(key)

    async def send_webhooks(self, target: WebhookTarget) -> None:
        """Start to send webhooks to this endpoint."""
        self._webhooks.target = target

    async def stop_webhooks(self) -> None:
        """Stop sending webhooks."""
        self._webhooks.target = None

    async def send_event(self, project_id: str, event: Annotated[Event, Body(embed=True)]) -> None:
        """Send a webhook about a project now."""
        self._webhooks.send(event, self._backend.projects[project_id])


async def _unknown(request: Request, error: Exception) -> JSONResponse:
    if not request.url.path.startswith("/_simulator"):
        raise error
    return JSONResponse({"detail": f"There is no {error}"}, 404)


def _describe(project: Project) -> dict[str, Any]:
    return {
        "kind": project.kind,
        "tool": project.tool,
        "name": project.name,
        "status": project.status,
        "enabled": project.enabled,
        "credits_charged": project.credits_charged,
        "error": project.error,
        "body": project.body,
        "outputs": list(project.names),
        "gets": project.gets,
        "deletes": project.deletes,
        "downloads": project.downloads,
        "downloaded_bytes": project.downloaded_bytes,
    }
