"""
What all tests share.

Each test process has its own AIRFLOW_HOME, set before Airflow is imported. Its database is made
only for the tests that request ``airflow_db``.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

AIRFLOW_HOME = Path(tempfile.mkdtemp(prefix="magichour-tests-"))
CREATOR = os.getpid()
ROOT = Path(__file__).resolve().parents[1]


def _make_home() -> None:
    for name in [name for name in os.environ if name.startswith("AIRFLOW")]:
        del os.environ[name]
    os.environ.update(
        AIRFLOW_HOME=str(AIRFLOW_HOME),
        AIRFLOW__CORE__LOAD_EXAMPLES="False",
        AIRFLOW__CORE__DAGS_FOLDER=str(AIRFLOW_HOME / "dags"),
        AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{AIRFLOW_HOME / 'airflow.db'}",
        AIRFLOW__USAGE_DATA_COLLECTION__ENABLED="False",
        NO_PROXY="127.0.0.1,localhost,::1",
    )
    # A proxy or a key of the developer's must not change what a test sees.
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "MAGIC_HOUR_API_KEY"):
        os.environ.pop(name, None)
        os.environ.pop(name.lower(), None)
    # Many tests start Python programs: without bytecode, each would compile all of Airflow for some seconds.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    # What tests write need not outlive a power cut.
    os.fsync = lambda _: None


def _remove_home() -> None:
    if os.getpid() == CREATOR:  # not in a forked child
        shutil.rmtree(AIRFLOW_HOME, ignore_errors=True)


_make_home()
atexit.register(_remove_home)

import hypothesis  # noqa: E402
import pytest  # noqa: E402

from airflow_provider_magichour.hooks import MagicHourHook  # noqa: E402
from airflow_provider_magichour.simulator import Simulator  # noqa: E402
from scripts.local import LocalAirflow  # noqa: E402
from scripts.local.simulator import start_simulator  # noqa: E402
from tests.support import airflow as airflow_support  # noqa: E402
from tests.support.loopback import only_loopback  # noqa: E402
from tests.support.metrics import Metric, statsd_server  # noqa: E402
from tests.support.projects import KEY, Projects  # noqa: E402
from tests.support.scripted_server import ScriptedServer, scripted_server  # noqa: E402
from tests.support.senders import Send, send_async, send_sync  # noqa: E402

pytest_plugins = ["airflow_provider_magichour.simulator.fixtures", "tests.support.stores"]

hypothesis.settings.register_profile(
    "default",
    deadline=None,  # the machine may be busy with other tests
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("default")


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow poll intervals of milliseconds, let a 404 be certain soon, and take earlier tries for dead."""
    monkeypatch.setattr("airflow_provider_magichour._polling.schedule.MIN_POLL_INTERVAL", 0.01)
    monkeypatch.setattr("airflow_provider_magichour._polling.not_found.CERTAIN_SECONDS", 0.1)
    monkeypatch.setattr("airflow_provider_magichour._polling.wait.LAST_CHECK_PAUSE", 0.05)
    monkeypatch.setattr("airflow_provider_magichour.operators._submit_records.ALIVE_SECONDS", -9.0)


@pytest.fixture(autouse=True, scope="session")
def _loopback_only() -> Iterator[None]:
    """Refuse every connection that would leave this machine."""
    with only_loopback():
        yield


@pytest.fixture(autouse=True)
def _no_shared_throttles() -> None:
    """Begin without the rate limits and pauses that earlier tests left for their servers."""
    from airflow_provider_magichour._client import throttle

    throttle._throttles.clear()


@pytest.fixture(scope="session")
def _migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Migrate once for all test processes, and give this one a copy."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    template = airflow_support.migrated_database(shared)
    shutil.copyfile(template, AIRFLOW_HOME / "airflow.db")
    return template


@pytest.fixture
def airflow_db(_migrated_database: Path) -> Iterator[Path]:
    """A migrated metadata database in this process's AIRFLOW_HOME, with the initial rows for each test."""
    database = AIRFLOW_HOME / "airflow.db"
    yield database
    airflow_support.restore_database(database, _migrated_database)


@pytest.fixture
def run_dag(airflow_db: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """
    Return ``run_dag(file, dag_id, conf=None)``: a DAG's ``dag.test()``, which returns the DAG run.

    Connections come from the environment: ``monkeypatch.setenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT", ...)``.
    """

    def run(file: Path, dag_id: str, conf: Mapping[str, Any] | None = None) -> Any:
        return airflow_support.run_dag(monkeypatch, file, dag_id, conf)

    return run


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """
    Return ``connect(base_url, api_key, conn_id="magichour_default", **extra)``.

    It makes an Airflow connection in the environment and returns its id.
    """

    def make(base_url: str, api_key: str, conn_id: str = "magichour_default", **extra: Any) -> str:
        connection = airflow_support.connection_json(base_url, api_key, **extra)
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", connection)
        return conn_id

    return make


@pytest.fixture
def sim(magichour_simulator: Simulator, connect: Callable[..., str]) -> Simulator:
    """A simulator that the connection ``magichour_default`` leads to."""
    connect(magichour_simulator.url, magichour_simulator.api_key, timeout=30)
    return magichour_simulator


@pytest.fixture
def hook(sim: Simulator) -> MagicHourHook:
    """A hook for the simulator."""
    return MagicHourHook()


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """A server whose responses the test sets."""
    with scripted_server() as running:
        yield running


@pytest.fixture
def projects(server: ScriptedServer, connect: Callable[..., str]) -> Projects:
    """Projects whose status checks the test sets; the connection ``magichour_default`` leads to them."""
    connect(server.url, KEY, timeout=30)
    return Projects(server)


@pytest.fixture(params=[send_sync, send_async], ids=["sync", "async"])
def send(request: pytest.FixtureRequest) -> Send:
    """Each of the two senders, in turn."""
    function: Send = request.param
    return function


@pytest.fixture(scope="session")
def statsd() -> Iterator[tuple[dict[str, str], list[Metric]]]:
    """Where the real Airflow sends its metrics: its settings, and what came of this package's."""
    with statsd_server() as found:
        yield found


@pytest.fixture(scope="session")
def real_airflow(
    tmp_path_factory: pytest.TempPathFactory, statsd: tuple[dict[str, str], list[Metric]]
) -> Iterator[LocalAirflow]:
    """
    A real Airflow with its processes, one for all tests, with the examples and the DAGs of ``tests/dags``.

    The connection ``magichour_default`` leads to its own simulator.
    """
    if not airflow_support.IS_AIRFLOW_3:
        pytest.skip("the tests with a whole Airflow are written for Airflow 3")
    # A name with a space, because people have such folders.
    home = tmp_path_factory.mktemp("real airflow") / "home"
    listed = {"AIRFLOW__MAGICHOUR__WEBHOOKS_CONNECTIONS": "magichour_default, magichour_webhooks"}
    env = {**listed, **statsd[0]}
    airflow = LocalAirflow(home, [ROOT / "example_dags", ROOT / "tests" / "dags"], env=env)
    try:
        airflow.connect("magichour_default", start_simulator(airflow.processes, duration=2))
        with airflow:
            yield airflow
    finally:
        airflow.stop()


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in its own hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of the shared Airflow in one process, and give the slow ones a mark."""
    for item in items:
        if "real_airflow" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("real_airflow"))
            item.add_marker(pytest.mark.real_airflow)
