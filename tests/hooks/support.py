"""What the tests of the hook share."""

from __future__ import annotations

from tests.support.scripted_server import Reply, ScriptedServer

ACCOUNT = Reply(body={"id": "account-1", "credits": 100})
GONE = Reply(404, {"code": "not_found", "message": "gone"})


def routes(server: ScriptedServer) -> list[str]:
    return sorted(f"{seen.method} {seen.path}" for seen in server.seen)
