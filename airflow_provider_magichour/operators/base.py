"""The base class of all operators."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_magichour import DEFAULT_CONN_ID

if TYPE_CHECKING:
    from airflow_provider_magichour.hooks import MagicHourHook


class MagicHourOperator(BaseOperator):
    """
    Work at Magic Hour over one connection.

    :param magichour_conn_id: the connection. (templated)
    """

    template_fields: Sequence[str] = ("magichour_conn_id",)  # pyright: ignore[reportIncompatibleVariableOverride]
    ui_color = "#efe6ff"

    def __init__(self, *, magichour_conn_id: str = DEFAULT_CONN_ID, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.magichour_conn_id = magichour_conn_id
        self._killed = False
        #: The places in the DAG by argument, before templates are rendered and XComs are read.
        self.unrendered: Mapping[str, Any] = {}

    if TYPE_CHECKING:

        @property
        def output(self) -> Any:
            """What the task returns: stands for any value, as in Airflow's own plugin for mypy."""

    @cached_property
    def hook(self) -> MagicHourHook:
        """Return the hook. It is created when the task runs."""
        from airflow_provider_magichour.hooks import MagicHourHook

        return MagicHourHook(self.magichour_conn_id)

    def check_places(self) -> None:
        """
        Refuse a place that is None only because a template or a task before gave nothing.

        Where the DAG says None, no files are stored, or the usual place is meant.

        :raises MagicHourArgumentError: if a place was given and is None now.
        """
        for name, given in self.unrendered.items():
            if given is not None and getattr(self, name) is None:
                from airflow_provider_magichour._validation import argument_error

                raise argument_error(
                    f"{name} is None, because its template or the task that it comes from gave nothing: "
                    f"check what that gives. If you need no {name}, leave it out of the DAG"
                )

    def on_kill(self) -> None:
        """Stop waiting within a second."""
        self._killed = True

    def _is_killed(self) -> bool:
        return self._killed


def on_a_thread(action: Callable[[], None], seconds: float) -> None:
    """
    Call a function on another thread, and wait for it for a limited time.

    A signal handler must do this to use locks, because the interrupted thread may hold them.
    """
    thread = threading.Thread(target=action, name="magichour-kill", daemon=True)
    thread.start()
    thread.join(seconds)


def describe_outlets(operator: Any, context: Mapping[str, Any], extra: Mapping[str, Any]) -> None:
    """Add data to the events of a task's outlets, for the DAGs that they start."""
    from airflow.providers.common.compat.sdk import Asset

    for outlet in operator.outlets or ():
        if isinstance(outlet, Asset):
            context["outlet_events"][outlet].extra.update(extra)
