"""The simulated Magic Hour: accounts, projects, uploads and face detections, and how they change."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from airflow_provider_magichour._client.api import TERMINAL_STATUSES
from airflow_provider_magichour.simulator.faults import Fault, Outcome
from airflow_provider_magichour.simulator.media import Media
from airflow_provider_magichour.simulator.models import Account, Detection, Project, RefusedError, iso
from airflow_provider_magichour.simulator.outputs import outputs_of, video_details
from airflow_provider_magichour.simulator.schemas import known_fields, schemas
from airflow_provider_magichour.simulator.settings import Settings
from airflow_provider_magichour.simulator.signing import Signer
from airflow_provider_magichour.tools import TOOLS

_logger = logging.getLogger(__name__)

_KEPT_WARNINGS = 1000


class Backend:
    """
    The simulated Magic Hour. It runs in one event loop, and is not thread-safe.

    :param settings: the settings.
    :param signer: creates the presigned URLs.
    """

    def __init__(self, settings: Settings, signer: Signer) -> None:
        self._first_settings = settings
        self.signer = signer
        self.listeners: list[Callable[[str, Project], None]] = []
        self._random = random.Random(settings.seed)
        self.reset()

    def reset(self) -> None:
        """Remove everything, and start with new accounts."""
        for project in getattr(self, "projects", {}).values():
            _cancel(project)
        self.settings = self._first_settings
        keys = (self.settings.api_key, *self.settings.more_api_keys)
        #: By API key. An account can have several keys, or none.
        self.accounts: dict[str, Account] = {}
        self.all_accounts: list[Account] = []
        for key in keys:
            self.add_account(key)
        #: The account of the setting ``api_key``.
        self.account = self.accounts[self.settings.api_key]
        self.projects: dict[str, Project] = {}
        self.detections: dict[str, Detection] = {}
        self.uploads: dict[str, dict[str, Any]] = {}
        self.media: dict[tuple[str, int], Media] = {}
        self.created: dict[str, int] = {}
        self.warnings: deque[str] = deque(maxlen=_KEPT_WARNINGS)

    def add_account(self, key: str) -> Account:
        """Return the account of this API key, or a new one. Its id is the same after a restart."""
        account_id = "cm" + hashlib.sha256(key.encode()).hexdigest()[:23]
        account = next((one for one in self.all_accounts if one.id == account_id), None)
        if account is None:
            account = Account(account_id, self.settings.credits)
            self.all_accounts.append(account)
        return self.accounts.setdefault(key, account)

    def add_api_key(self, key: str) -> None:
        """Add a key to the first account."""
        self.accounts[key] = self.account
        self.settings = replace(self.settings, api_key=key)

    def revoke_api_key(self, key: str) -> None:
        """
        Remove a key.

        :raises KeyError: if it is not known.
        """
        del self.accounts[key]

    def warn(self, message: str) -> None:
        """Log a warning, and store it for the state."""
        self.warnings.append(message)
        _logger.warning("%s", message)

    def new_id(self) -> str:
        """Return a new id in the form of Magic Hour's ids."""
        return "cm" + "".join(self._random.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=23))

    # ----------------------------------------------------------------------------------------- projects

    def create(self, account: Account, tool: str, body: dict[str, Any], fault: Fault | None) -> Project:
        """
        Create a project, charge its estimate and start it.

        :raises RefusedError: 402 if there are too few credits, 429 if too many projects render.
        """
        self._check_render_limit(account)
        known = known_fields(tool, body)
        details = video_details(tool, known) if TOOLS[tool].kind == "video" else {}
        price = _price(tool, known)
        if price > account.credits:
            raise RefusedError(
                402,
                f"Payment required: this costs {price} credits, and {account.credits} are left",
            )
        project_id = self.new_id()
        account.book(project_id, tool, "charge", price)
        size = (
            self.settings.output_bytes if fault is None or fault.output_bytes is None else fault.output_bytes
        )
        names, outputs = outputs_of(tool, project_id, known, details, size)
        project = Project(
            id=project_id,
            account=account,
            kind=TOOLS[tool].kind,
            tool=tool,
            name=known.get("name"),
            body=body,
            created=time.time(),
            seconds=self._seconds(tool),
            credits_charged=price,
            outputs=outputs,
            names=names,
            details=details,
        )
        if fault is not None:
            _direct(project, fault)
        self.projects[project_id] = project
        self.created[tool] = self.created.get(tool, 0) + 1
        for number, media in enumerate(project.outputs):
            self.media[project_id, number] = media
        if not project.statuses:
            queued = project.seconds * self.settings.queue_share
            self._later(project, queued, self._begin)
        return project

    def _check_render_limit(self, account: Account) -> None:
        limit = self.settings.max_rendering
        if limit is None or self.settings.max_rendering_action == "queue":
            return
        under_way = sum(one.account is account and not one.is_over for one in self.projects.values())
        if under_way >= limit:
            raise RefusedError(429, f"Too many requests: your plan renders {limit} projects at once")

    def _seconds(self, tool: str) -> float:
        spread = self.settings.jitter and self.settings.jitter * self._random.uniform(-1, 1)
        return max(self.settings.tool_seconds(tool) * (1 + spread), 0.0)

    def _later(self, project: Project, seconds: float, step: Callable[[Project], None]) -> None:
        project.timer = asyncio.get_running_loop().call_later(seconds, step, project)

    def _begin(self, project: Project) -> None:
        account, limit = project.account, self.settings.max_rendering
        if limit is not None and account.rendering >= limit:
            account.waiting.append(project)
            return
        account.rendering += 1
        project.holds_slot = True
        project.status = "rendering"
        self._notify("started", project)
        rest = project.seconds * (1 - self.settings.queue_share)
        self._later(project, rest, lambda project: self.end(project, project.outcome))

    def end(self, project: Project, outcome: Outcome) -> None:
        """End a project now, whatever its status is."""
        _cancel(project)
        project.status = outcome.status
        self._set_final_price(project, outcome)
        self._free_slot(project)
        if outcome.status == "complete":
            self._notify("completed", project)
        elif outcome.status == "error":
            self._notify("errored", project)

    def _set_final_price(self, project: Project, outcome: Outcome) -> None:
        """Replace the estimate by the final price, which is 0 for a failed project."""
        if project.settled:
            return
        project.settled = True
        final = project.credits_charged
        if outcome.status != "complete":
            final = 0
        elif project.kind == "video":
            # Magic Hour adjusts a video's price to its actual frames.
            final -= final // 10
        if final < project.credits_charged:
            project.account.book(project.id, project.tool, "refund", project.credits_charged - final)
        project.credits_charged = final
        if outcome.status == "error":
            project.error = {"message": outcome.message, "code": outcome.code}

    def _free_slot(self, project: Project) -> None:
        account = project.account
        if project.holds_slot:
            project.holds_slot = False
            account.rendering -= 1
        while account.waiting:
            following = account.waiting.popleft()
            if not following.is_over:
                self._begin(following)
                return

    def _notify(self, event: str, project: Project) -> None:
        for listener in self.listeners:
            listener(event, project)

    def record_get(self, project: Project) -> None:
        """Count a GET of a project, and set the next status if the project has a list of them."""
        project.gets += 1
        if project.statuses and project.enabled:
            project.status = project.statuses.popleft() if len(project.statuses) > 1 else project.statuses[0]
            if project.status in TERMINAL_STATUSES:
                self._set_final_price(project, project.outcome.model_copy(update={"status": project.status}))

    def find(self, account: Account, kind: str, project_id: str) -> Project:
        """
        Return the account's project of that kind.

        :raises RefusedError: 404 if it does not exist, is not visible yet, or was deleted.
        """
        project = self.projects.get(project_id)
        if project is None or project.kind != kind or project.account is not account:
            raise RefusedError(404, "Not Found")
        if time.time() < project.created + project.read_lag:
            raise RefusedError(404, "Not Found")
        if not project.enabled and self.settings.deleted_projects == "not_found":
            raise RefusedError(404, "Not Found")
        return project

    def delete(self, project: Project) -> None:
        """
        Delete a project and its files.

        :raises RefusedError: 404 if it was deleted already, 422 if it cannot be deleted.
        """
        project.deletes += 1
        if not project.enabled:
            raise RefusedError(404, "Not Found")
        if project.undeletable:
            raise RefusedError(
                422,
                f"{project.kind} is a template and cannot be deleted. Please reach out to our support team.",
            )
        _cancel(project)
        project.enabled = False
        self._free_slot(project)
        for number in range(len(project.outputs)):
            self.media.pop((project.id, number), None)

    def project_json(self, project: Project) -> dict[str, Any]:
        """Return the project in the form of Magic Hour's responses."""
        downloads = []
        if project.status == "complete" and project.enabled:
            expires = time.time() + self.settings.url_lifetime
            expires_at = iso(expires)
            downloads = [
                {"url": self.signer.sign("GET", project.id, name, number, expires), "expires_at": expires_at}
                for number, name in enumerate(project.names)
            ]
        found: dict[str, Any] = {
            "id": project.id,
            "name": project.name,
            "status": project.status,
            "type": TOOLS[project.tool].project_type or project.tool.upper().replace("-", "_"),
            "created_at": iso(project.created),
            "enabled": project.enabled,
            "credits_charged": project.credits_charged,
            "downloads": downloads,
            "error": project.error,
        }
        if project.kind != "audio":
            found["total_frame_cost"] = project.credits_charged
        if project.kind == "image":
            found["image_count"] = len(project.outputs)
        if project.kind == "video":
            found |= project.details
            found["download"] = downloads[0] if downloads else None
        return found


def _cancel(project: Project) -> None:
    if project.timer is not None:
        project.timer.cancel()
        project.timer = None


def _direct(project: Project, fault: Fault) -> None:
    """Apply a fault to a new project."""
    if fault.outcome is not None:
        project.outcome = fault.outcome
    if fault.duration is not None:
        project.seconds = fault.duration
    if fault.names:
        if len(fault.names) > len(project.outputs):
            project.outputs += [project.outputs[0]] * (len(fault.names) - len(project.outputs))
        project.outputs = project.outputs[: len(fault.names)]
        project.names = list(fault.names)
    project.statuses.extend(fault.statuses)
    project.undeletable = fault.undeletable
    project.read_lag = fault.read_lag


def _price(tool: str, body: Mapping[str, Any]) -> int:
    price = int(schemas()[tool].get("credits", 5))
    if TOOLS[tool].kind == "image":
        return price * int(body.get("image_count") or 1)
    if tool == "ai-music-generator":
        return int(body["duration"])
    if TOOLS[tool].kind == "audio":
        # The exact price does not matter here. A longer text must cost more.
        return price + len(str((body.get("style") or {}).get("prompt", ""))) // 20
    return price
