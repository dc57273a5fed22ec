"""Generate tasks that start together: what a burst of short renders does to a real Airflow."""

from __future__ import annotations

from typing import Any

from airflow.sdk import dag, task

from airflow_provider_magichour.operators import MagicHourGenerateOperator

BODIES: dict[str, dict[str, Any]] = {
    "ai-image-generator": {
        "image_count": 1,
        "orientation": "square",
        "style": {"prompt": "a lighthouse", "tool": "general"},
    },
    "ai-voice-generator": {"style": {"prompt": "good morning", "voice_name": "Elon Musk"}},
    "text-to-video": {"end_seconds": 5, "orientation": "landscape", "style": {"prompt": "a lighthouse"}},
}


@dag(schedule=None, max_active_tasks=64)
def magichour_bursts() -> None:
    @task
    def plan(dag_run: Any = None) -> list[dict[str, Any]]:
        """Return the arguments of each task: the tools in turn."""
        tools = dag_run.conf["tools"]
        return [
            {"tool": tools[number % len(tools)], "body": BODIES[tools[number % len(tools)]]}
            for number in range(dag_run.conf["tasks"])
        ]

    MagicHourGenerateOperator.partial(
        task_id="generate", deferrable=True, destination="{{ dag_run.conf['destination'] }}", retries=0
    ).expand_kwargs(plan())


magichour_bursts()
