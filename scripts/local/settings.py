"""What the processes of a local Airflow find in their environment."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.local.processes import free_port


@dataclass(frozen=True)
class Celery:
    """
    Tasks run on Celery workers instead of in the scheduler's process.

    :param workers: how many there are.
    :param broker_url: where their messages go.
    :param result_backend: where results are kept.
    """

    workers: int
    broker_url: str
    result_backend: str

    def settings(self) -> dict[str, str]:
        """Return Airflow's settings, with what a cluster sets that is to heal soon."""
        return {
            "core.executor": "CeleryExecutor",
            "celery.broker_url": self.broker_url,
            "celery.result_backend": self.result_backend,
            # A message is taken when a slot is free for it, and gone when its task has ended.
            "celery.worker_prefetch_multiplier": "1",
            "celery.task_acks_late": "True",
            # Airflow's default, said so that it does not warn. What a lost worker ran is found sooner by
            # its missing heartbeat, and what it only took by the time it is queued.
            "celery_broker_transport_options.visibility_timeout": "86400",
            "scheduler.task_queued_timeout": "60",
            "scheduler.task_queued_timeout_check_interval": "10",
            # A second is little on a machine whose cores are all busy.
            "celery.operation_timeout": "10",
            "celery.sync_parallelism": "1",
        }

    def ping(self) -> list[str]:
        """Return the names of the workers that respond now."""
        import celery

        with celery.Celery(broker=self.broker_url) as app:
            return [name for reply in app.control.ping(timeout=1) for name in reply]


def worker_command(name: str, slots: int) -> list[str]:
    """Return what starts a Celery worker that runs so many tasks at once."""
    return ["celery", "worker", "--concurrency", str(slots), "--celery-hostname", f"{name}@%h"]


def environment(
    *,
    home: Path,
    url: str,
    dag_folders: Sequence[Path],
    database_url: str,
    parallelism: int,
    celery: Celery | None,
    connections: Mapping[str, str],
    env: Mapping[str, str],
) -> dict[str, str]:
    """Return the environment of all processes: ours, without what belongs to another Airflow."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    bundles = [
        {
            "name": f"dags-{number}",
            "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
            "kwargs": {"path": str(folder)},
        }
        for number, folder in enumerate(dag_folders, start=1)
    ]
    settings = {
        "core.load_examples": "False",
        "core.executor": "LocalExecutor",
        "core.parallelism": str(parallelism),
        "core.dags_folder": str(dag_folders[0] if dag_folders else home / "dags"),
        "core.dags_are_paused_at_creation": "True",
        "core.simple_auth_manager_all_admins": "True",
        "core.execution_api_server_url": f"{url}/execution/",
        "core.hostname_callable": "socket.gethostname",
        "core.test_connection": "Enabled",
        "core.min_serialized_dag_update_interval": "5",
        "database.sql_alchemy_conn": database_url,
        "api.base_url": url,
        "api.workers": "1",
        # Magic Hour's webhooks: here, every user is an admin, whatever the name and password.
        "magichour.webhooks": "True",
        "magichour.webhooks_airflow_url": url,
        "magichour.webhooks_username": "webhooks",
        "magichour.webhooks_password": "password-of-the-webhooks-user",
        "logging.colored_console_log": "False",
        "logging.base_log_folder": str(home / "logs"),
        "logging.worker_log_server_port": str(free_port()),
        "dag_processor.dag_bundle_config_list": json.dumps(bundles),
        "dag_processor.parsing_processes": "1",
        "dag_processor.refresh_interval": "10",
        "dag_processor.min_file_process_interval": "30",
        "scheduler.scheduler_heartbeat_sec": "2",
        "scheduler.job_heartbeat_sec": "2",
        "scheduler.scheduler_idle_sleep_time": "0.5",
        "scheduler.scheduler_health_check_threshold": "20",
        "scheduler.orphaned_tasks_check_interval": "20",
        "scheduler.task_instance_heartbeat_timeout": "20",
        "scheduler.task_instance_heartbeat_timeout_detection_interval": "5",
        "scheduler.trigger_timeout_check_interval": "5",
        "triggerer.job_heartbeat_sec": "2",
        "triggerer.triggerer_health_check_threshold": "15",
        # How late the end of a task process may be seen, and that a task was marked.
        "workers.min_heartbeat_interval": "1",
        # The default of 5 fails tasks on a machine whose cores are all busy.
        "workers.execution_api_timeout": "30",
        "usage_data_collection.enabled": "False",
        "openlineage.disabled": "True",
        **(celery.settings() if celery else {}),
    }
    variables = {f"AIRFLOW__{name.upper().replace('.', '__')}": value for name, value in settings.items()}
    return {
        **inherited,
        "AIRFLOW_HOME": str(home),
        "PYTHONUNBUFFERED": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
        **variables,
        **{f"AIRFLOW_CONN_{name.upper()}": value for name, value in connections.items()},
        **env,
    }
