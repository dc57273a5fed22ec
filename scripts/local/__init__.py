"""
A real Airflow on this machine, for the demo and for tests.

    with LocalAirflow(home, [dags], connections={"magichour_default": "..."}) as airflow:
        run = airflow.trigger("my_dag", {"prompt": "a lighthouse"})
        assert airflow.wait_for_run("my_dag", run) == "success"
        print(airflow.xcom("my_dag", run, "generate"))

API server, scheduler, DAG processor, triggerers and Celery workers are processes of their own, so that a
test can kill one of them and start it again.
"""

from scripts.local.airflow import LocalAirflow
from scripts.local.client import FINISHED

__all__ = ["FINISHED", "LocalAirflow"]
