"""Checks of the JSON that is sent."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import Any, cast

from airflow_provider_magichour._validation import NATIVE_HINT, argument_error, is_many


def check_body(value: object, name: str = "body") -> dict[str, Any]:
    """
    Check that a create call's body is a dict, and return it. It is encoded later.

    :raises MagicHourArgumentError: if it is not a dict.
    """
    if not isinstance(value, dict):
        hint = f". {NATIVE_HINT}" if isinstance(value, str) else ""
        raise argument_error(
            f"{name} must be a dict, the JSON object of the create call, not {type(value).__name__}{hint}"
        )
    return cast("dict[str, Any]", value)


def encode_json(value: object, name: str = "json") -> bytes:
    """
    Return a value as JSON with sorted keys, so that equal values give equal bytes. A path becomes text.

    :raises MagicHourArgumentError: if it cannot be JSON.
    """
    try:
        return json.dumps(value, allow_nan=False, sort_keys=True, default=os.fspath).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise argument_error(f"{name} cannot be sent as JSON: {error}") from error


def check_bodies(body: object, *, encode: bool = True) -> list[dict[str, Any]]:
    """
    Return one body or a list of bodies as a list.

    :param encode: whether to check now that they can be encoded as JSON.
    :raises MagicHourArgumentError: if one is not a JSON object.
    """
    named = (
        [(f"body[{position}]", one) for position, one in enumerate(cast("Iterable[object]", body))]
        if is_many(body)
        else [("body", body)]
    )
    bodies = [check_body(one, name) for name, one in named]
    for name, one in named if encode else ():
        encode_json(one, name)
    return bodies
