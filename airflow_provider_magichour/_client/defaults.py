"""What a connection has where its extra says nothing: the one place for the code, the form and the docs."""

from __future__ import annotations

BASE_URL = "https://api.magichour.ai"
#: Seconds that one try of a call may take.
TIMEOUT = 60
#: Tries of a call that may be repeated.
MAX_ATTEMPTS = 5
#: Calls that one process sends in a second.
REQUESTS_PER_SECOND = 500
#: Connections that one process keeps open while it works on many projects.
MAX_CONNECTIONS = 100
