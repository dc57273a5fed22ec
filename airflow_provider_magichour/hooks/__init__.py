"""The hook: a method for each call of Magic Hour's API."""

from __future__ import annotations

from airflow_provider_magichour.hooks.magichour import MagicHourHook

__all__ = ["MagicHourHook"]
