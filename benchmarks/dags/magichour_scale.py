"""The same projects as tasks that do nothing, mapped, in lists, and in lists by steps."""

from __future__ import annotations

from airflow.sdk import dag, task

from airflow_provider_magichour.operators import MagicHourCreateProjectOperator, MagicHourDownloadOperator
from airflow_provider_magichour.operators import MagicHourGenerateOperator as Generate
from airflow_provider_magichour.sensors import MagicHourProjectSensor

NOTHINGS, TASKS, LIST = 100, 20, 100
#: Bytes of each file: what a byte costs is measured elsewhere.
SIZE = 10_000
TOOL = "ai-image-generator"
DESTINATION = "{{ dag_run.conf['destination'] }}/{{ run_id }}"


def bodies(count: int, name: object) -> list[dict[str, object]]:
    return [{"name": f"1.{SIZE}.0.0.{name}x{n}", "style": {"prompt": "a lighthouse"}} for n in range(count)]


@dag(schedule=None)
def scale_nothing() -> None:
    @task
    def nothing(number: int) -> None:
        pass

    nothing.expand(number=list(range(NOTHINGS)))


@dag(schedule=None)
def scale_mapped() -> None:
    Generate.partial(task_id="generate", tool=TOOL, destination=DESTINATION, deferrable=True).expand(
        body=bodies(TASKS, "m")
    )


@dag(schedule=None)
def scale_listed() -> None:
    Generate.partial(task_id="generate", tool=TOOL, destination=DESTINATION, deferrable=True).expand(
        body=[bodies(LIST, 0), bodies(LIST, 1)]
    )


@dag(schedule=None)
def scale_steps() -> None:
    make = MagicHourCreateProjectOperator(task_id="make", tool=TOOL, body=bodies(LIST, "s"))
    ids = make.output.map(lambda made: made["id"])
    MagicHourProjectSensor(
        task_id="wait", kind="image", project_id=ids, return_projects=False, deferrable=True
    ) >> MagicHourDownloadOperator(task_id="download", kind="image", project_id=ids, destination=DESTINATION)


scale_nothing()
scale_mapped()
scale_listed()
scale_steps()
