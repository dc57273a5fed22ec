"""The settings of a simulator."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Literal, TypeAlias

from airflow_provider_magichour.tools import TOOLS

Tier: TypeAlias = Literal["free", "creator", "pro", "business"]
RenderLimitAction: TypeAlias = Literal["queue", "429"]
DeletedProjects: TypeAlias = Literal["disabled", "not_found"]

DEFAULT_API_KEY = "mhk_test_simulator"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """
    Settings of a simulator, all optional.

    :param host: the address to listen on.
    :param port: the port of the API, 0 for any free one.
    :param downloads_port: the port of presigned download and upload URLs, 0 for any free one.
    :param public_host: the host name in the presigned URLs, ``host`` by default. Set it if clients reach
        the simulator under another name.
    :param api_key: the accepted API key.
    :param more_api_keys: further keys. Each has its own account, with its own credits and projects.
    :param credits: the credits of each account at the start.
    :param tier: the plan of the accounts.
    :param duration: the seconds that every project takes. By default a project takes the typical duration
        of its tool, divided by ``speed_up``.
    :param speed_up: how many times faster than Magic Hour the simulator is.
    :param jitter: the share by which the duration of a project varies at random, from 0 to 1.
    :param queue_share: the share of the duration in which a project is ``queued``.
    :param latency: seconds by which each response is delayed.
    :param max_rendering: how many projects of an account render at once, without a limit by default.
    :param max_rendering_action: what happens above this limit: ``queue`` queues the project, ``429`` refuses
        it.
    :param deleted_projects: the response to a GET of a deleted project: ``disabled`` is the project with
        ``enabled: false``, ``not_found`` is a 404.
    :param url_lifetime: seconds until a presigned URL expires.
    :param output_bytes: the size of each output, which is filled with padding.
    :param rate_limit: requests per second for each account. The response to others is 429 with
        ``Retry-After``.
    :param webhook_url: where to send webhooks, None for none.
    :param webhook_secret: the secret that they are signed with.
    :param webhook_retry_seconds: seconds before a failed webhook is sent again. They double with each try.
    :param webhook_timeout: seconds to wait for the response to a webhook.
    :param webhook_duplicates: how many times an accepted webhook is sent again.
    :param webhook_shuffle: delay each webhook by up to this many seconds at random, so that they arrive out
        of order.
    :param seed: makes ids, jitter and random faults the same in each run.
    """

    host: str = "127.0.0.1"
    port: int = 0
    downloads_port: int = 0
    public_host: str | None = None
    api_key: str = DEFAULT_API_KEY
    more_api_keys: tuple[str, ...] = ()
    credits: int = 100_000
    tier: Tier = "pro"
    duration: float | None = None
    speed_up: float = 1.0
    jitter: float = 0.0
    queue_share: float = 0.2
    latency: float = 0.0
    max_rendering: int | None = None
    max_rendering_action: RenderLimitAction = "queue"
    deleted_projects: DeletedProjects = "disabled"
    url_lifetime: float = 24 * 3600
    output_bytes: int | None = None
    rate_limit: float | None = None
    webhook_url: str | None = None
    webhook_secret: str | None = None
    webhook_retry_seconds: float = 1.0
    webhook_timeout: float = 10.0
    webhook_duplicates: int = 0
    webhook_shuffle: float = 0.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.speed_up <= 0:
            raise ValueError(f"speed_up must be above 0, not {self.speed_up}")
        for name, seconds in (("duration", self.duration), ("latency", self.latency)):
            if seconds is not None and seconds < 0:
                raise ValueError(f"{name} must not be negative, not {seconds}")
        if (self.webhook_url is None) != (self.webhook_secret is None):
            raise ValueError("webhook_url and webhook_secret belong together: set both or neither")

    def tool_seconds(self, tool: str) -> float:
        """Return how many seconds a project of this tool takes, before jitter."""
        if self.duration is not None:
            return self.duration
        typical = TOOLS[tool].typical_seconds or _typical_seconds(TOOLS[tool].kind)
        return typical / self.speed_up


def _typical_seconds(kind: str) -> float:
    """Return the median of the kind's tools, for a tool whose own is not known."""
    return median(
        tool.typical_seconds for tool in TOOLS.values() if tool.kind == kind and tool.typical_seconds
    )
