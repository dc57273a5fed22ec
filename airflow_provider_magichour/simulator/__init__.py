"""
A local server that behaves like Magic Hour, with real media files, and with faults that you define.

From the command line::

    python -m airflow_provider_magichour.simulator --speed-up 20

From Python::

    with Simulator(duration=0.2) as magichour:
        magichour.url, magichour.api_key, magichour.connection_uri
        magichour.faults({"match": {"route": "get_project"}, "status": 503, "times": 2})
        magichour.state()["created"]

With pytest, put ``pytest_plugins = ["airflow_provider_magichour.simulator.fixtures"]`` into the
``conftest.py`` in the root folder, and use the fixture ``magichour_simulator``.
"""

try:
    from airflow_provider_magichour.simulator.server import Simulator
    from airflow_provider_magichour.simulator.settings import Settings
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"The simulator needs the package {error.name}: pip install 'airflow-provider-magichour[simulator]'",
        name=error.name,
    ) from error

__all__ = ["Settings", "Simulator"]
