"""What is public: each name, and the path by which the metadata, the README and the docs import it."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Callable, Iterator

import pytest

from airflow_provider_magichour import get_provider_info
from tests.test_docs import ROOT, blocks

NAME = "airflow_provider_magichour"

#: Other people's DAGs import these. A new name is added here; none is taken away.
PUBLIC: dict[str, set[str]] = {
    "": {"get_provider_info", "__version__"},
    "hooks": {"MagicHourHook"},
    "operators": {
        "MagicHourCleanupOperator",
        "MagicHourCreateProjectOperator",
        "MagicHourDeleteProjectOperator",
        "MagicHourDetectFacesOperator",
        "MagicHourDownloadOperator",
        "MagicHourGenerateOperator",
        "MagicHourUploadOperator",
    },
    "sensors": {"MagicHourProjectSensor"},
    # The triggers' paths are in Airflow's database while tasks are deferred.
    "triggers": {"MagicHourGenerateTrigger", "MagicHourProjectTrigger"},
    "links": {"MagicHourMediaLink", "MagicHourProjectLink"},
    "exceptions": {
        "MagicHourApiError",
        "MagicHourArgumentError",
        "MagicHourAuthenticationError",
        "MagicHourBatchError",
        "MagicHourBatchFailedError",
        "MagicHourBudgetError",
        "MagicHourConnectionError",
        "MagicHourConnectionNotFoundError",
        "MagicHourDownloadError",
        "MagicHourError",
        "MagicHourGatewayError",
        "MagicHourInvalidRequestError",
        "MagicHourNotFoundError",
        "MagicHourPaymentRequiredError",
        "MagicHourPermissionError",
        "MagicHourProjectCanceledError",
        "MagicHourProjectFailedError",
        "MagicHourRateLimitError",
        "MagicHourRenderError",
        "MagicHourSensorTimeoutError",
        "MagicHourServerError",
        "MagicHourSubmitRecordError",
        "MagicHourTimeoutError",
        "MagicHourUncertainSubmitError",
        "MagicHourUnrecordedSubmitError",
        "MagicHourUploadError",
        "MagicHourWrongKindError",
    },
    "types": {
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
    },
    "tools": {"KINDS", "Kind", "KindName", "KnownTool", "TOOLS", "Tool", "ToolName", "UPLOAD_EXTENSIONS"},
    "webhooks": {
        "MagicHourWebhooksPlugin",
        "TriggeringProject",
        "magichour_asset",
        "queued_projects",
        "triggering_projects",
    },
    "ui": {"MagicHourViewPlugin", "review_body"},
    "simulator": {"Settings", "Simulator"},
    "simulator.fixtures": {"magichour_simulator"},
}
PATHS = {".".join(filter(None, (NAME, module, name))) for module, names in PUBLIC.items() for name in names}
MODULES = {f"{NAME}.{module}".rstrip(".") for module in PUBLIC}


@pytest.mark.parametrize("module", [module for module in PUBLIC if module])
def test_modules_export_what_is_public(module: str) -> None:
    imported = importlib.import_module(f"{NAME}.{module}")
    assert sorted(imported.__all__) == sorted(PUBLIC[module])
    assert all(hasattr(imported, name) for name in PUBLIC[module])


def imports(code: str) -> Iterator[str]:
    """Find the paths that code imports of the package."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == NAME:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] == NAME)


def test_docs_and_examples_import_public_names_only() -> None:
    found = {f"{block}": {*imports(block.code)} for block in blocks("python")}
    for file in (ROOT / "example_dags").glob("*.py"):
        found[file.name] = {*imports(file.read_text())}
    assert {f"{NAME}.operators.MagicHourGenerateOperator", f"{NAME}.types.Project"} <= set().union(
        *found.values()
    )
    assert {where: paths - PATHS - MODULES for where, paths in found.items() if paths - PATHS - MODULES} == {}


def test_reference_describes_public_names_only() -> None:
    pages = [path.read_text() for path in (ROOT / "docs").rglob("*.md")]
    described = {path for page in pages for path in re.findall(r"^::: (\S+)", page, re.MULTILINE)}
    assert described <= PATHS | MODULES
    classes = {path for path in PATHS if path.startswith((f"{NAME}.operators.", f"{NAME}.sensors."))}
    assert classes <= described


def test_metadata_names_public_paths_only() -> None:
    info = get_provider_info()
    classes = {info["connection-types"][0]["hook-class-name"], *info["extra-links"]}
    classes |= {plugin["plugin-class"] for plugin in info["plugins"]}
    assert classes <= PATHS
    parts = ("hooks", "operators", "sensors", "triggers")
    assert {module for part in parts for each in info[part] for module in each["python-modules"]} <= MODULES
    project = (ROOT / "pyproject.toml").read_text()
    entry_points = re.findall(rf'^\w+ = "({NAME}[\w.]*):(\w+)"', project, re.MULTILINE)
    assert {f"{module}.{name}" for module, name in entry_points} <= PATHS


#: The arguments of the constructors that DAGs use; there may be more, all of them optional.
ARGUMENTS: dict[str, str] = {
    "hooks.MagicHourHook": "magichour_conn_id",
    "operators.MagicHourUploadOperator": "source",
    "operators.MagicHourCreateProjectOperator": "tool body kind durable max_credits",
    "operators.MagicHourGenerateOperator": "tool body kind destination deferrable durable poll_interval "
    "timeout reuse max_credits delete_on_kill defer_after",
    "operators.MagicHourDownloadOperator": "project_id kind destination overwrite",
    "operators.MagicHourDeleteProjectOperator": "project_id kind missing_ok destination index",
    "operators.MagicHourCleanupOperator": "destination older_than dry_run limit fail_on_kept",
    "operators.MagicHourDetectFacesOperator": "assets",
    "sensors.MagicHourProjectSensor": "project_id kind poll_interval deferrable "
    "fail_on_error return_projects catalog",
    "triggers.MagicHourProjectTrigger": "kind project_ids magichour_conn_id deadline poll_interval",
}
#: The hook's methods with their arguments.
METHODS: dict[str, str] = {
    "get_conn": "",
    "test_connection": "",
    "get_account": "",
    "create_project": "tool body kind",
    "get_project": "kind project_id",
    "delete_project": "kind project_id missing_ok",
    "wait_for_project": "kind project_id timeout poll_interval",
    "check_result": "kind project_id wait_for_completion download_outputs download_directory",
    "upload_file": "path",
    "download_project": "kind project_id destination overwrite",
    "detect_faces": "body",
    "get_face_detection": "id",
    "request": "method path json params",
}


def parameters(called: Callable[..., object]) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(called).parameters)


@pytest.mark.parametrize("path", ARGUMENTS)
def test_constructors_keep_their_arguments(path: str) -> None:
    module, _, name = path.rpartition(".")
    found = parameters(getattr(importlib.import_module(f"{NAME}.{module}"), name).__init__)
    expected = {*ARGUMENTS[path].split(), "magichour_conn_id"}
    assert expected <= found.keys()
    by_name = {inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
    required = {each.name for each in found.values() if each.default is each.empty and each.kind in by_name}
    assert required - {"self"} <= expected


@pytest.mark.parametrize("name", METHODS)
def test_hook_keeps_its_methods(name: str) -> None:
    hook = importlib.import_module(f"{NAME}.hooks").MagicHourHook
    found = [each for each in parameters(getattr(hook, name)) if each != "self"]
    assert found[: len(METHODS[name].split())] == METHODS[name].split()
