"""A local Magic Hour."""

from airflow_provider_magichour.simulator.server import Simulator
from airflow_provider_magichour.simulator.settings import Settings

__all__ = ["Settings", "Simulator"]
