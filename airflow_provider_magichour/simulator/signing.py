"""Presigned URLs of downloads and uploads."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from urllib.parse import quote


class Signer:
    """
    Creates and checks presigned URLs.

    :param base_url: the origin of the URLs. It is set when the port is known.
    """

    def __init__(self, base_url: str = "") -> None:
        self.base_url = base_url
        self._secret = secrets.token_bytes(32)

    def sign(self, method: str, folder: str, name: str, output: int, expires: float) -> str:
        """
        Return a URL for one method on one file.

        :param folder: the project's id, or another folder.
        :param output: the position in the project's outputs, because two outputs may have the same name.
        :param expires: when the URL stops working, in seconds since the epoch.
        """
        until = str(int(expires * 1000))
        return (
            f"{self.base_url}/{quote(folder)}/{quote(name, safe='')}"
            f"?output={output}&expires={until}&signature={self._signature(method, folder, output, until)}"
        )

    def problem(self, method: str, folder: str, output: str, until: str, signature: str) -> str | None:
        """Return why the URL is not valid, or None if it is valid."""
        if not until.isdigit() or not hmac.compare_digest(
            self._signature(method, folder, output, until).encode(), signature.encode()
        ):
            return "SignatureDoesNotMatch"
        if int(until) / 1000 < time.time():
            return "ExpiredToken"
        return None

    def _signature(self, method: str, folder: str, output: int | str, until: str) -> str:
        signed = f"{method}\n{folder}\n{output}\n{until}".encode()
        return hmac.new(self._secret, signed, hashlib.sha256).hexdigest()
