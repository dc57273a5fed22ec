"""The request bodies that Magic Hour accepts: the fields, their types, and which ones are required."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from jsonschema import Draft202012Validator, ValidationError

_TYPES = {
    "object": "an object",
    "array": "a list",
    "string": "a string",
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "null": "null",
}
_LIMITS = {
    "minLength": "must have at least {} characters",
    "maxLength": "must have at most {} characters",
    "minItems": "must have at least {} items",
    "maxItems": "must have at most {} items",
    "minimum": "must be at least {}",
    "maximum": "must be at most {}",
    "multipleOf": "must be a multiple of {}",
    "pattern": "must match {}",
}


@cache
def schemas() -> Mapping[str, Mapping[str, Any]]:
    """Return the body's schema and the example price of each create call, by its path below ``/v1``."""
    found: Mapping[str, Mapping[str, Any]] = json.loads(
        files("airflow_provider_magichour.simulator").joinpath("schemas.json").read_text("utf-8")
    )
    return found


def check_body(name: str, body: object) -> list[str]:
    """
    Check the body of a create call, and return a warning for each unknown value of an enumeration.

    Unknown fields and values are accepted, because the API may be newer than this file.

    :param name: the call's path below ``/v1``, such as ``text-to-video``.
    :raises ValueError: if a field is wrong or missing. The message names the field.
    """
    if not isinstance(body, dict):
        raise ValueError("body must be a JSON object")  # noqa: TRY004 - the request is wrong, not the code
    warnings = []
    for error in _validator(name).iter_errors(body):
        if error.validator != "enum":
            raise ValueError(_describe(error))
        values = ", ".join(map(str, error.validator_value))
        warnings.append(f"{_path(error)} {str(error.instance)[:40]!r} is none of the known values ({values})")
    known = known_fields(name, body)
    start, end = known.get("start_seconds"), known.get("end_seconds")
    if start is not None and end is not None and end <= start:
        raise ValueError("end_seconds must be greater than start_seconds")
    return warnings


def known_fields(name: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a checked body that are in its schema. Only these have a known type."""
    return {field: body[field] for field in schemas()[name]["body"]["properties"] if field in body}


@cache
def _validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(schemas()[name]["body"])


def _path(error: ValidationError) -> str:
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path]
    return "".join(parts).removeprefix(".")


def _describe(error: ValidationError) -> str:
    path = _path(error)
    limit: Any = error.validator_value
    if error.validator == "required":
        missing = next(name for name in limit if name not in error.instance)
        return f"{path}.{missing} is required".removeprefix(".")
    if error.validator == "type":
        types = [limit] if isinstance(limit, str) else limit
        return f"{path} must be {' or '.join(_TYPES[name] for name in types)}"
    return f"{path} {_LIMITS[str(error.validator)].format(limit)}"
