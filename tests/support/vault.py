"""A secrets backend of Airflow's, in memory, that can be unreachable."""

from __future__ import annotations

from airflow.secrets import BaseSecretsBackend


class Vault(BaseSecretsBackend):
    """What Airflow is configured with; its secrets are the class's, as Airflow makes the instance."""

    connections: dict[str, str] = {}  # noqa: RUF012  # each test begins with its own
    #: How many reads from now on fail.
    away = 0
    reads = 0

    def get_conn_value(self, conn_id: str, team_name: str | None = None) -> str | None:
        Vault.reads += 1
        if Vault.away > 0:
            Vault.away -= 1
            raise OSError("the vault is away")
        return Vault.connections.get(conn_id)
