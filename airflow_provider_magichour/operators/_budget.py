"""The limits for the costs of a task's submits."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from airflow_provider_magichour.exceptions import MagicHourBudgetError

log = logging.getLogger(__name__)

#: A larger number is not a valid number of credits.
MAX_CREDITS = 1e15
#: The share of the limit above which a warning is logged.
WARN_SHARE = 0.8


class Budget:
    """
    The credits of one task instance, of all its tries together.

    :param limit: ``max_credits``, None for none.
    :param keep: ``keep_credits``, None for none.
    """

    def __init__(self, tool: str, limit: float | None, keep: float | None = None) -> None:
        self.limit = limit
        self._keep = keep
        self._tool = tool
        self._lock = threading.Lock()
        self._charges: list[float] = []
        self._uncertain = 0
        self._missing_charges = 0

    def add(self, charges: Iterable[Any], uncertain: int = 0) -> None:
        """
        Count what was charged.

        :param charges: of each project what Magic Hour said; what is no number of credits counts as unknown.
        :param uncertain: submits of which it is unknown whether they were accepted.
        """
        with self._lock:
            for charge in map(as_credits, charges):
                if charge is None:
                    self._missing_charges += 1
                else:
                    self._charges.append(charge)
            self._uncertain += uncertain

    @property
    def is_limited(self) -> bool:
        """Return whether each charge must be known before the next submit."""
        return self.limit is not None or self._keep is not None

    @property
    def _most_expensive(self) -> float:
        return max(self._charges, default=0.0)

    @property
    def spent(self) -> float:
        """The spent credits. An uncertain submit counts as the most expensive charge so far."""
        return sum(self._charges) + self._uncertain * self._most_expensive

    def check(self, name: str, read_account: Callable[[], Any]) -> None:
        """
        Refuse a submit that would exceed a limit if it cost as much as the most expensive one so far.

        :param read_account: returns the current account.
        :raises MagicHourBudgetError: if it would exceed a limit, or if the spent credits are not known.
        """
        if self._keep is not None:
            left = balance_of(read_account())
            if left is None or left <= self._keep or left - self._most_expensive < self._keep:
                known = "unknown" if left is None else f"{left:g}"
                raise MagicHourBudgetError(
                    f"{name} was not submitted: the account's credits are {known}, of which "
                    f"keep_credits={self._keep:g} have to stay. Buy more at https://magichour.ai/pricing, or "
                    "lower keep_credits"
                )
        if self.limit is None:
            return
        with self._lock:
            if self._missing_charges or (self._uncertain and not self._charges):
                raise MagicHourBudgetError(
                    f"{name} was not submitted: what an earlier submit of this task cost is not known, so "
                    f"max_credits={self.limit:g} cannot be kept. Search https://magichour.ai/my-library, "
                    "and run the task without max_credits"
                )
            if self._charges and self.spent + self._most_expensive > self.limit:
                raise MagicHourBudgetError(
                    f"{name} was not submitted: {self.spent:g} of max_credits={self.limit:g} are spent, and "
                    f"one more could cost {self._most_expensive:g}"
                )

    def check_balance(self, account: Any) -> None:
        """
        Refuse all submits if the account has less credits than the rest of the limit.

        :param account: the response to ``GET /v1/account``.
        :raises MagicHourBudgetError: if it has less, or if the response has no valid number of credits.
        """
        if self.limit is None:
            return
        left = balance_of(account)
        if left is None:
            raise MagicHourBudgetError(
                f"{self._tool} was not submitted: the account's credits could not be read, so max_credits="
                f"{self.limit:g} cannot be kept. Run the task again later, or without max_credits"
            )
        if left == 0 and account.get("subscription", "") is None:
            log.info("The account has no subscription, so its 0 credits say nothing about what it may spend.")
            return
        budget = self.limit - self.spent
        if left < budget:
            raise MagicHourBudgetError(
                f"{self._tool} was not submitted: the account has {left:g} credits left, less than the "
                f"{budget:g} of max_credits. Buy more at https://magichour.ai/pricing, or lower max_credits"
            )

    def report(self) -> None:
        """Log the spent credits."""
        if len(self._charges) > 1:
            log.info("%d projects, %g credits in all (an estimate).", len(self._charges), self.spent)
        if self.limit is not None and self.spent > WARN_SHARE * self.limit:
            log.warning(
                "%s was charged %g credits, %.0f %% of max_credits=%g.",
                self._tool,
                self.spent,
                100 * self.spent / self.limit,
                self.limit,
            )


def as_credits(value: Any) -> float | None:
    """Return the number of credits in a response, or None if it is not valid."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MAX_CREDITS
    return value if is_number else None


def balance_of(account: Any) -> float | None:
    """Return the credits of an account, or None if they are not known."""
    return as_credits(account.get("credits")) if isinstance(account, Mapping) else None
