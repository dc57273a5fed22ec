"""Tasks that do nothing, and generate tasks: what starting them costs."""

from __future__ import annotations

from airflow.sdk import dag, task

from airflow_provider_magichour.operators import MagicHourGenerateOperator as Generate

TASKS = 10


def bodies(name: str) -> list[dict[str, object]]:
    return [{"name": f"1.10000.0.0.{name}{n}", "style": {"prompt": "a lighthouse"}} for n in range(TASKS)]


@dag(schedule=None)
def starts_nothing() -> None:
    @task
    def nothing(number: int) -> None:
        pass

    nothing.expand(number=list(range(TASKS)))


@dag(schedule=None)
def starts_generate() -> None:
    Generate.partial(
        task_id="generate",
        tool="ai-image-generator",
        destination="{{ dag_run.conf['destination'] }}",
        index="{{ dag_run.conf['destination'] }}",
        deferrable=True,
        defer_after="{{ dag_run.conf['defer_after'] }}",
    ).expand(body=bodies("{{ dag_run.conf['name'] }}x"))


starts_nothing()
starts_generate()
