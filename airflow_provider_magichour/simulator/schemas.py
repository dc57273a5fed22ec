"""The request bodies that Magic Hour takes: which fields, of which types, and which are required."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

_TYPES: Mapping[str, tuple[str, tuple[type, ...]]] = {
    "object": ("an object", (dict,)),
    "array": ("a list", (list,)),
    "string": ("a string", (str,)),
    "boolean": ("true or false", (bool,)),
    "integer": ("a whole number", (int, float)),
    "number": ("a number", (int, float)),
}


@cache
def schemas() -> Mapping[str, Mapping[str, Any]]:
    """Return, for each create call's path below ``/v1``, the schema of its body and its example price."""
    found: Mapping[str, Mapping[str, Any]] = json.loads(
        files("airflow_provider_magichour.simulator").joinpath("schemas.json").read_text("utf-8")
    )
    return found


def problem(name: str, body: object) -> str | None:
    """
    Return what is wrong with the body of a create call, naming the field; None if nothing is.

    Fields that the specification does not name pass: the API grows faster than this file.

    :param name: the call's path below ``/v1``, such as ``text-to-video``.
    """
    if not isinstance(body, dict):
        return "body must be a JSON object"
    return _problem(schemas()[name]["body"], body, "")


def _problem(schema: Mapping[str, Any], value: object, path: str) -> str | None:
    if value is None and schema.get("nullable"):
        return None
    kind = str(schema.get("type"))
    if kind in _TYPES and not _is_type(kind, value):
        return f"{path} must be {_TYPES[kind][0]}"
    if isinstance(value, dict):
        return _object_problem(schema, value, path)
    if isinstance(value, list):
        return _list_problem(schema, value, path)
    return _scalar_problem(schema, value, path)


def _is_type(kind: str, value: object) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES[kind][1])


def _object_problem(schema: Mapping[str, Any], value: dict[str, Any], path: str) -> str | None:
    prefix = f"{path}." if path else ""
    for name in schema.get("required", ()):
        if name not in value:
            return f"{prefix}{name} is required"
    for name, part in schema.get("properties", {}).items():
        if name in value and (found := _problem(part, value[name], f"{prefix}{name}")):
            return found
    return None


def _list_problem(schema: Mapping[str, Any], value: list[Any], path: str) -> str | None:
    if len(value) < schema.get("minItems", 0):
        return f"{path} must have at least {schema['minItems']} items"
    if len(value) > schema.get("maxItems", math.inf):
        return f"{path} must have at most {schema['maxItems']} items"
    for position, item in enumerate(value):
        if found := _problem(schema.get("items", {}), item, f"{path}[{position}]"):
            return found
    return None


def _scalar_problem(schema: Mapping[str, Any], value: Any, path: str) -> str | None:
    if "enum" in schema and value not in schema["enum"]:
        return f"{path} must be one of {', '.join(map(str, schema['enum']))}"
    if isinstance(value, str):
        if len(value) < schema.get("minLength", 0):
            return f"{path} must not be empty"
        if len(value) > schema.get("maxLength", math.inf):
            return f"{path} must have at most {schema['maxLength']} characters"
        if "pattern" in schema and not re.search(schema["pattern"], value):
            return f"{path} must match {schema['pattern']}"
    elif isinstance(value, int | float) and not isinstance(value, bool):
        return _number_problem(schema, value, path)
    return None


def _number_problem(schema: Mapping[str, Any], value: float, path: str) -> str | None:
    if value < schema.get("minimum", -math.inf):
        return f"{path} must be at least {schema['minimum']}"
    if value > schema.get("maximum", math.inf):
        return f"{path} must be at most {schema['maximum']}"
    step = schema.get("multipleOf")
    if step and not math.isclose(value / step, round(value / step), abs_tol=1e-6):
        return f"{path} must be a multiple of {step}"
    return None
