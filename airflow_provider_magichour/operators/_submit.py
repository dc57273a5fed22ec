"""Submits bodies to a tool so that each is paid once: what the create and the generate operator share."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, cast

from airflow_provider_magichour._client import api
from airflow_provider_magichour.exceptions import (
    MagicHourAuthenticationError,
    MagicHourBudgetError,
    MagicHourConnectionError,
    MagicHourError,
    MagicHourNotFoundError,
    MagicHourPaymentRequiredError,
    MagicHourProjectFailedError,
    MagicHourRateLimitError,
    MagicHourServerError,
    MagicHourUncertainSubmitError,
)
from airflow_provider_magichour.operators._submit_records import Submit, SubmitRecords, fingerprint

if TYPE_CHECKING:
    from airflow_provider_magichour.hooks import MagicHourHook

log = logging.getLogger(__name__)

#: Create calls that are under way at once.
MAX_PARALLEL = 4
#: The first and the longest pause before a create call is tried again that the plan's limit held back, in
#: seconds. They are for lists, whose own projects may be what the limit is used up by.
FIRST_LIMIT_PAUSE, MAX_LIMIT_PAUSE = 2.0, 30.0
#: More than this is no number of credits.
MAX_CREDITS = 1e15
#: The share of ``max_credits`` above which a warning is logged.
WARN_SHARE = 0.8

#: After these the rest of a list is not submitted, because it would meet the same.
_STOPPING = (
    MagicHourAuthenticationError,
    MagicHourPaymentRequiredError,
    MagicHourConnectionError,
    MagicHourServerError,
    MagicHourBudgetError,
)


class Submitter:
    """
    Submits the bodies of one task, or takes up what an earlier try submitted.

    :param hook: how to reach Magic Hour.
    :param tool: the tool.
    :param kind: the kind of project that it makes.
    :param memory: what the task remembers.
    :param retry_uncertain_submit: whether a submit whose outcome is unknown may be made again.
    :param max_credits: what all of it may cost.
    :param patience: seconds to go on while 429 says that the plan renders no more at once; for lists.
    """

    def __init__(
        self,
        hook: MagicHourHook,
        tool: str,
        kind: str,
        records: SubmitRecords,
        *,
        retry_uncertain_submit: bool = False,
        max_credits: float | None = None,
        patience: float = 3600.0,
    ) -> None:
        self._hook = hook
        self._tool = tool
        self._kind = kind
        self._records = records
        self._retry_uncertain = retry_uncertain_submit
        self._max_credits = max_credits
        self._patience = patience
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._stopped_by: MagicHourError | None = None
        self._charges: list[float] = []
        self._names: list[str] = []
        #: Projects of earlier tries that need not be waited for.
        self.needs_no_wait: set[str] = set()

    def submit(self, bodies: Sequence[dict[str, Any]]) -> list[Submit | MagicHourError]:
        """
        Submit the bodies; return each one's project, or the error, in their order.

        All of them are tried before an error is told, except where the rest would meet the same.
        """
        self._hook.get_conn()  # a connection that cannot be used is no reason to touch the memory
        self._names = [
            self._tool if len(bodies) == 1 else f"{self._tool} (body[{position}])"
            for position in range(len(bodies))
        ]
        prints = [fingerprint(self._hook.magichour_conn_id, self._tool, self._kind, body) for body in bodies]
        outcomes = self._find(prints)
        self._check_projects(outcomes)
        missing = [position for position, outcome in enumerate(outcomes) if outcome is None]
        if missing:
            self._charges = [
                _credits(one.credits_charged) or 0 for one in outcomes if isinstance(one, Submit)
            ]
            try:
                self._check_balance()
                ready = self._upload({position: bodies[position] for position in missing}, outcomes)
                self._submit_side_by_side(ready, prints, outcomes)
                self._report_charges()
            except MagicHourError as error:
                self._stopped_by = error
        rest = self._stopped_by or MagicHourError(f"{self._tool} was not submitted")
        return [rest if outcome is None else outcome for outcome in outcomes]

    def _create(self, body: dict[str, Any]) -> dict[str, Any]:
        return self._hook.create_project(self._tool, body, self._kind)

    def _look_at(self, project_id: str) -> api.Request:
        return api.get_project(self._kind, project_id)

    # --------------------------------------------------------------------------------------- earlier tries

    def _find(self, prints: Sequence[str]) -> list[Submit | MagicHourError | None]:
        outcomes: list[Submit | MagicHourError | None] = []
        for position, body in enumerate(prints):
            try:
                outcomes.append(self._records.find(position, body, name=self._names[position]))
            except MagicHourUncertainSubmitError as error:
                if self._retry_uncertain:
                    log.warning("%s Submitting anew, because retry_uncertain_submit is set.", error)
                outcomes.append(None if self._retry_uncertain else error)
        return outcomes

    def _check_projects(self, outcomes: list[Submit | MagicHourError | None]) -> None:
        """Look at the projects that earlier tries made; forget those that came to nothing."""
        if self._records.succeeded:
            log.info("An earlier try succeeded without Airflow hearing of it: returning the same result.")
            return
        taken = {position: one for position, one in enumerate(outcomes) if isinstance(one, Submit)}
        answers = self._hook.send_all([self._look_at(str(one.id)) for one in taken.values()])
        for (position, record), answer in zip(taken.items(), answers, strict=True):
            error = answer if isinstance(answer, MagicHourError) else api.project_error(answer)
            if isinstance(error, MagicHourProjectFailedError):
                error = api.render_error(error)
            if isinstance(error, MagicHourNotFoundError):
                if not error.is_own:
                    outcomes[position] = MagicHourError(
                        f"Whether project {record.id} still exists cannot be told: {error.call} was answered "
                        f"404 by something on the way to Magic Hour: {error.message}. Nothing was submitted; "
                        "a retry looks again"
                    )
                elif record.result is None:
                    log.warning("Project %s was deleted: submitting anew.", record.id)
                    outcomes[position] = None
                else:
                    self.needs_no_wait.add(str(record.id))
            elif error is answer:
                outcomes[position] = error
            elif error is not None:
                log.warning("%s. Submitting anew.", error)
                outcomes[position] = None
            else:
                log.info("Going on with project %s, which an earlier try submitted.", record.id)
                if not isinstance(answer, MagicHourError) and api.is_finished(answer):
                    self.needs_no_wait.add(str(record.id))

    # -------------------------------------------------------------------------------------------- uploads

    def _upload(
        self, bodies: Mapping[int, dict[str, Any]], outcomes: list[Submit | MagicHourError | None]
    ) -> dict[int, dict[str, Any]]:
        """Upload the files that the bodies name, each once, and return the bodies that are complete."""
        if not any("assets" in body for body in bodies.values()):
            return dict(bodies)
        from airflow_provider_magichour._transfer.body_files import find_assets, replace_assets
        from airflow_provider_magichour._transfer.upload import upload_all

        wanted: dict[int, list[tuple[str, str]]] = {}
        for position, body in bodies.items():
            try:
                wanted[position] = find_assets(body)
            except MagicHourError as error:
                outcomes[position] = error
        files = {value: field for found in wanted.values() for value, field in found}
        uploaded = dict(zip(files, upload_all(self._hook.settings, list(files.items())), strict=True))
        good = {name: path for name, path in uploaded.items() if isinstance(path, str)}
        ready: dict[int, dict[str, Any]] = {}
        for position, found in wanted.items():
            broken = next((value for value, _ in found if value not in good), None)
            if broken is not None:
                outcomes[position] = cast("MagicHourError", uploaded[broken])
            else:
                ready[position] = replace_assets(bodies[position], good)
        return ready

    # ------------------------------------------------------------------------------------------- submits

    def _submit_side_by_side(
        self,
        bodies: Mapping[int, dict[str, Any]],
        prints: Sequence[str],
        outcomes: list[Submit | MagicHourError | None],
    ) -> None:
        def work(position: int) -> None:
            if self._stop.is_set():
                return
            try:
                outcomes[position] = self._submit_one(position, bodies[position], prints[position])
            except MagicHourError as error:
                outcomes[position] = error
                if isinstance(error, _STOPPING):
                    self._stopped_by = self._stopped_by or error
                    self._stop.set()

        # Threads for a single body, too: where Airflow interrupts the task (``execution_timeout``), the
        # thread still hears the answer and writes the id down.
        # A budget is kept to by knowing each charge before the next submit.
        workers = MAX_PARALLEL if self._max_credits is None else 1
        executor = ThreadPoolExecutor(workers, thread_name_prefix="magichour-submit")
        futures: list[Future[None]] = []
        try:
            futures += [executor.submit(work, position) for position in bodies]
            for future in futures:
                future.result()
        finally:  # even where Airflow interrupts the task: what has left is written down
            if not all(future.done() for future in futures):
                self._stop.set()
            executor.shutdown(wait=True, cancel_futures=True)

    def _submit_one(self, position: int, body: dict[str, Any], body_print: str) -> Submit:
        deadline = time.monotonic() + (self._patience if len(self._names) > 1 else 0.0)
        pause = FIRST_LIMIT_PAUSE
        while True:
            try:
                return self._submit_once(position, body, body_print)
            except MagicHourRateLimitError as error:
                if time.monotonic() + pause > deadline:
                    raise
                log.info("%s. Trying again in up to %.0f s.", error, pause)
                if self._stop.wait(pause * random.uniform(0.5, 1.0)):
                    raise
                pause = min(2 * pause, MAX_LIMIT_PAUSE)

    def _submit_once(self, position: int, body: dict[str, Any], body_print: str) -> Submit:
        """Write the intent, send the create call, write the id: in this order, whatever happens."""
        name = self._names[position]
        self._check_budget(name)
        intent = self._records.write_intent(position, body_print, name=name)
        try:
            answer = self._create(body)
        except MagicHourUncertainSubmitError as error:
            if self._retry_uncertain:
                raise MagicHourConnectionError(
                    f"{error}. A retry submits it again (retry_uncertain_submit)"
                ) from error
            self._records.mark_reported(position, intent)
            raise
        except MagicHourError as error:
            self._records.discard_intent(position)
            raise self._explained(error) from error
        project_id, charged = str(answer["id"]), _credits(answer.get("credits_charged"))
        with self._lock:
            self._charges.append(charged or 0)
        submit = self._records.record_id(position, intent, project_id, charged, name=name)
        log.info("Submitted %s: project %s, %s credits (an estimate).", name, project_id, charged)
        return submit

    # -------------------------------------------------------------------------------------------- credits

    def _explained(self, error: MagicHourError) -> MagicHourError:
        """Add the credits that are left to a 402, and to a 404 that it is the tool that is not found."""
        if isinstance(error, MagicHourNotFoundError):
            return MagicHourNotFoundError(
                error.status_code, f"{error.message} (Magic Hour has no tool {self._tool!r})", error.call
            )
        if not isinstance(error, MagicHourPaymentRequiredError):
            return error
        left = self._balance()
        if left is None:
            return error
        return MagicHourPaymentRequiredError(
            error.status_code, f"{error.message} ({left:g} credits left)", error.call
        )

    def _balance(self) -> float | None:
        """Return the account's credits, None where it cannot be told."""
        try:
            account = self._hook.get_account()
        except MagicHourError as error:
            log.warning("The account's credits could not be read: %s", error)
            return None
        return _credits(account.get("credits")) if isinstance(account, Mapping) else None

    def _check_balance(self) -> None:
        if self._max_credits is None:
            return
        left = self._balance()
        budget = self._max_credits - sum(self._charges)
        if left is not None and left < budget:
            raise MagicHourBudgetError(
                f"{self._tool} was not submitted: the account has {left:g} credits left, less than the "
                f"{budget:g} of max_credits. Buy more at https://magichour.ai/pricing, or lower max_credits"
            )

    def _check_budget(self, name: str) -> None:
        """Refuse what would go over the budget if it cost as much as the dearest one so far."""
        if self._max_credits is None or not self._charges:
            return
        spent = sum(self._charges)
        if spent + max(self._charges) > self._max_credits:
            raise MagicHourBudgetError(
                f"{name} was not submitted: {spent:g} of max_credits={self._max_credits:g} are spent, and "
                f"one more could cost {max(self._charges):g}"
            )

    def _report_charges(self) -> None:
        spent = sum(self._charges)
        if len(self._charges) > 1:
            log.info("%d projects, %g credits in all (an estimate).", len(self._charges), spent)
        if self._max_credits is not None and spent > WARN_SHARE * self._max_credits:
            log.warning(
                "%s was charged %g credits, %.0f %% of max_credits=%g.",
                self._tool,
                spent,
                100 * spent / self._max_credits,
                self._max_credits,
            )


class DetectionSubmitter(Submitter):
    """Submits face detections, which are no projects, but may cost credits one day."""

    def __init__(self, hook: MagicHourHook, records: SubmitRecords) -> None:
        super().__init__(hook, "face-detection", "image", records)

    def _create(self, body: dict[str, Any]) -> dict[str, Any]:
        return self._hook.detect_faces(body)

    def _look_at(self, project_id: str) -> api.Request:
        return api.get_face_detection(project_id)


def _credits(value: Any) -> float | None:
    """Return an answer's number of credits, None for anything else: it must fit into a JSON store."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MAX_CREDITS
    return value if is_number else None
