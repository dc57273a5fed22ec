"""The simulator's own calls: arm faults, read what happened, decide how a project ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

from fastapi import APIRouter, Body, HTTPException
from pydantic import BaseModel, ConfigDict

from airflow_provider_magichour.simulator.backend import Backend, Project
from airflow_provider_magichour.simulator.faults import Faults, Outcome, Rule
from airflow_provider_magichour.simulator.middleware import Recorder
from airflow_provider_magichour.simulator.webhooks import Webhooks, WebhookTarget

Event: TypeAlias = Literal["started", "completed", "errored"]

_OK = {"message": "ok"}


class RuleList(BaseModel):
    """Rules to put in force."""

    model_config = ConfigDict(extra="forbid")

    rules: list[Rule]
    seed: int | None = None


class Admin:
    """
    What a test asks of the simulator, over HTTP or directly.

    :param backend: what Magic Hour remembers.
    :param recorder: what was called.
    :param faults: the rules in force.
    :param webhooks: sends webhooks.
    """

    def __init__(self, backend: Backend, recorder: Recorder, faults: Faults, webhooks: Webhooks) -> None:
        self._backend = backend
        self._recorder = recorder
        self._faults = faults
        self._webhooks = webhooks

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter(prefix="/_simulator", tags=["simulator"])
        router.add_api_route("/state", self._get_state, methods=["GET"])
        router.add_api_route("/requests", self._get_requests, methods=["GET"])
        router.add_api_route("/ledger", self._get_ledger, methods=["GET"])
        router.add_api_route("/accounts", self._post_account, methods=["POST"])
        router.add_api_route("/api-keys", self._post_api_key, methods=["POST"])
        router.add_api_route("/api-keys/{key}", self._delete_api_key, methods=["DELETE"])
        router.add_api_route("/faults", self._get_faults, methods=["GET"])
        router.add_api_route("/faults", self._post_faults, methods=["POST"])
        router.add_api_route("/faults", self._delete_faults, methods=["DELETE"])
        router.add_api_route("/reset", self._post_reset, methods=["POST"])
        router.add_api_route("/projects/{project_id}", self._post_project, methods=["POST"])
        router.add_api_route("/projects/{project_id}/webhook", self._post_event, methods=["POST"])
        router.add_api_route("/webhooks", self._put_webhooks, methods=["PUT"])
        router.add_api_route("/webhooks", self._delete_webhooks, methods=["DELETE"])
        return router

    def state(self, *, projects: bool = True) -> dict[str, Any]:
        """Return counters and what Magic Hour remembers."""
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

    def requests(self, *, route: str | None = None, limit: int = 20_000) -> list[dict[str, Any]]:
        """Return the latest requests, oldest first."""
        kept = [entry for entry in self._recorder.log if route in {None, entry["route"]}]
        return kept[-limit:] if limit else []

    def ledger(self, account_id: str | None = None) -> list[dict[str, Any]]:
        """Return all charges and refunds of one account or of all, by time."""
        lines = [
            {"account_id": account.id, **line}
            for account in self._backend.all_accounts
            if account_id in {None, account.id}
            for line in account.ledger
        ]
        return sorted(lines, key=lambda line: float(line["at"]))

    def arm(self, rules: Sequence[Rule], seed: int | None = None) -> None:
        """Put rules in force."""
        if seed is not None:
            self._faults.reseed(seed)
        self._faults.add(rules)

    def disarm(self) -> None:
        """Drop all rules."""
        self._faults.clear()

    def reset(self) -> None:
        """Forget projects, uploads, counters and faults; credits are full again."""
        self._faults.clear()
        self._backend.reset()
        self._recorder.reset()
        self._webhooks.forget()

    def end(self, project_id: str, outcome: Outcome) -> dict[str, Any]:
        """
        Bring a project to its end now.

        :raises KeyError: if there is no such project.
        """
        project = self._backend.projects[project_id]
        project.statuses.clear()
        self._backend.end(project, outcome)
        return _describe(project)

    def direct_webhooks(self, target: WebhookTarget | None) -> None:
        """Send webhooks there from now on; None for nowhere."""
        self._webhooks.target = target

    def send_event(self, project_id: str, event: Event) -> None:
        """
        Send a project's webhook now, again.

        :raises KeyError: if there is no such project.
        """
        self._webhooks.send(event, self._backend.projects[project_id])

    async def _get_state(self, *, projects: bool = True) -> dict[str, Any]:
        return self.state(projects=projects)

    async def _get_requests(self, route: str | None = None, limit: int = 1000) -> list[dict[str, Any]]:
        return self.requests(route=route, limit=limit)

    async def _get_ledger(self, account_id: str | None = None) -> list[dict[str, Any]]:
        return self.ledger(account_id)

    async def _post_account(self, key: Annotated[str, Body(embed=True)]) -> dict[str, str]:
        return {"id": self._backend.add_account(key).id}

    async def _post_api_key(self, key: Annotated[str, Body(embed=True)]) -> dict[str, str]:
        self._backend.add_api_key(key)
        return _OK

    async def _delete_api_key(self, key: str) -> dict[str, str]:
        try:
            self._backend.revoke_api_key(key)
        except KeyError:
            raise HTTPException(404, "There is no such API key") from None
        return _OK

    async def _get_faults(self) -> list[dict[str, Any]]:
        return self._faults.describe()

    async def _post_faults(self, rules: RuleList | list[Rule]) -> list[dict[str, Any]]:
        if isinstance(rules, list):
            rules = RuleList(rules=rules)
        self.arm(rules.rules, rules.seed)
        return self._faults.describe()

    async def _delete_faults(self) -> dict[str, str]:
        self.disarm()
        return _OK

    async def _post_reset(self) -> dict[str, str]:
        self.reset()
        return _OK

    async def _post_project(self, project_id: str, outcome: Outcome) -> dict[str, Any]:
        try:
            return self.end(project_id, outcome)
        except KeyError:
            raise HTTPException(404, f"There is no project {project_id}") from None

    async def _put_webhooks(self, target: WebhookTarget) -> dict[str, str]:
        self.direct_webhooks(target)
        return _OK

    async def _delete_webhooks(self) -> dict[str, str]:
        self.direct_webhooks(None)
        return _OK

    async def _post_event(self, project_id: str, event: Annotated[Event, Body(embed=True)]) -> dict[str, str]:
        try:
            self.send_event(project_id, event)
        except KeyError:
            raise HTTPException(404, f"There is no project {project_id}") from None
        return _OK


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
