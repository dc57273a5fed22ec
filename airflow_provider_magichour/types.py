"""
The types of arguments and results, for editors and type checkers.

``Project`` is the API's own JSON object; the others are what the operators return.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, NotRequired, TypeAlias, TypedDict, TypeVar

from airflow.providers.common.compat.sdk import XComArg

from airflow_provider_magichour.tools import Kind, KindName, KnownTool, ToolName

__all__ = [
    "CleanupReport",
    "CreatedProject",
    "DeletedProjects",
    "DetectedFaces",
    "Download",
    "GeneratedMedia",
    "KeptProject",
    "Kind",
    "KindName",
    "KnownTool",
    "Project",
    "ProjectError",
    "ProjectRef",
    "ProjectStatus",
    "SavedFile",
    "Seconds",
    "Templated",
    "ToolName",
]

T = TypeVar("T")

#: A project: its id, or what a task returned about it (``{"id", "kind", ...}``, ``{"project": {...}}``).
ProjectRef: TypeAlias = str | Mapping[str, Any]

#: A time span: seconds, or a ``timedelta``.
Seconds: TypeAlias = float | timedelta

#: An argument that is a value, or what another task returns, such as ``create.output["id"]``.
Templated: TypeAlias = T | XComArg


class CreatedProject(TypedDict):
    """A project that was submitted: what the create operator returns."""

    id: str
    kind: Kind
    tool: str
    credits_charged: int


class ProjectStatus(TypedDict):
    """A project that was waited for: what the sensor returns with ``return_projects=False``."""

    id: str
    kind: Kind
    status: str


class SavedFile(TypedDict):
    """A file that was downloaded and verified."""

    path: str
    bytes: int
    sha256: str
    content_type: str


class GeneratedMedia(TypedDict):
    """A project that was created and downloaded: what the generate operator returns."""

    project: Project
    files: list[SavedFile]
    #: With ``reuse=True``: whether an earlier result was taken instead of paying again.
    reused: NotRequired[bool]


class DeletedProjects(TypedDict):
    """Ids of projects that were deleted, and of projects that were deleted before."""

    deleted: list[str]
    missing: list[str]


class KeptProject(TypedDict):
    """A project that was due for clean-up, but was kept."""

    id: str
    reason: str


class CleanupReport(DeletedProjects):
    """What a clean-up did."""

    kept: list[KeptProject]


class DetectedFaces(TypedDict, total=False):
    """A face detection as in the API's response."""

    id: str
    status: str
    credits_charged: int
    faces: list[dict[str, str]]


class Download(TypedDict):
    """One output of a complete project: a presigned URL that expires 24 hours after the request."""

    url: str
    expires_at: str


class ProjectError(TypedDict, total=False):
    """Why a project failed."""

    code: str
    message: str


class _AnyProject(TypedDict):
    id: str
    name: str | None
    status: str
    type: str
    created_at: str
    enabled: bool
    credits_charged: int
    downloads: list[Download]
    error: ProjectError | None


class Project(_AnyProject, total=False):
    """
    A project as in the API's response. It may have fields that this version does not know.

    The sensor and the generate operator add ``kind``. Images have ``image_count``. Videos have ``width``,
    ``height``, ``fps``, ``start_seconds`` and ``end_seconds``. ``credits_charged`` is an estimate until the
    project is complete.
    """

    kind: Kind
    image_count: int
    width: int
    height: int
    fps: float
    start_seconds: float
    end_seconds: float
