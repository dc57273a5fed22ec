"""Task logs, read from Airflow's folder of logs."""

from __future__ import annotations

import json
from pathlib import Path

#: What every line of a task log repeats.
_NOISE = ("logger", "filename", "lineno", "ti_id", "dag_id", "task_id", "run_id", "map_index", "try_number")


def read_task_log(
    folder: Path, dag_id: str, run_id: str, task_id: str, *, try_number: int | None, map_index: int
) -> str:
    """
    Return a task's log as text, the triggerer's part included.

    :param folder: Airflow's ``base_log_folder``.
    :param try_number: one try; all of them if None.
    """
    folder = folder / f"dag_id={dag_id}" / f"run_id={run_id}" / f"task_id={task_id}"
    if map_index >= 0:
        folder /= f"map_index={map_index}"
    pattern = "attempt=*.log*" if try_number is None else f"attempt={try_number}.log*"
    files = sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime)
    return "\n".join(_readable(line) for path in files for line in _lines(path))


def _lines(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines()


def _readable(line: str) -> str:
    """Turn one JSON line of a task log into text; leave any other line as it is."""
    try:
        record = json.loads(line)
        text = f"{record.pop('timestamp')} {record.pop('level')}: {record.pop('event')}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return line
    for noise in _NOISE:
        record.pop(noise, None)
    if record:
        text += f" {json.dumps(record, default=str)}"
    return text
