"""
Write what the wheel needs as a software bill of materials (CycloneDX 1.6), and check the licences.

The versions are those that are installed here, which constraints.txt pins and the tests ran with.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

#: Words of licences under which a dependency may be used beside Apache-2.0 code; matched in lower case.
ALLOWED = (
    "apache", "bsd", "mit", "isc", "psf", "python software foundation", "python-2.0", "mozilla", "mpl-2.0",
    "unlicense", "public domain", "cc0", "0bsd", "zlib", "zpl",
)  # fmt: skip
#: Further packages that may be used, each with its reason.
ACCEPTED: Mapping[str, str] = {
    "text-unidecode": "also under the Artistic License; Airflow requires it by way of python-slugify",
}


class LicenceError(Exception):
    """A dependency has a licence that is not allowed, or none."""


def closure(requirements: Iterable[str]) -> dict[str, tuple[Distribution, set[str]]]:
    """
    Return what is required, and all that it requires, on this Python.

    :return: by normalized name: what is installed, and the names that it requires.
    """
    found: dict[str, tuple[Distribution, set[str]]] = {}
    waiting = [Requirement(text) for text in requirements]
    done: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        needed = waiting.pop()
        name = canonicalize_name(needed.name)
        if (name, extras := frozenset(needed.extras)) in done:
            continue
        done.add((name, extras))
        library, children = found.setdefault(name, (distribution(name), set()))
        for child in _required(library, extras):
            waiting.append(child)
            children.add(canonicalize_name(child.name))
    return found


def _required(library: Distribution, extras: frozenset[str]) -> Iterator[Requirement]:
    for text in library.requires or []:
        needed = Requirement(text)
        if needed.marker is None or any(needed.marker.evaluate({"extra": each}) for each in {"", *extras}):
            try:
                distribution(needed.name)
            except PackageNotFoundError:
                if extras:  # of an extra that needs another Python or system
                    continue
                raise
            yield needed


def licence(library: Distribution) -> str:
    """Return the licence that a package states, an empty text where it states none."""
    if expressions := library.metadata.get_all("License-Expression"):
        return str(expressions[0])
    classifiers = [
        text.rpartition(" :: ")[2]
        for text in library.metadata.get_all("Classifier", [])
        if text.startswith("License :: ") and text != "License :: OSI Approved"
    ]
    stated = str((library.metadata.get_all("License") or [""])[0]).strip().partition("\n")[0]
    return " OR ".join(classifiers) or stated[:100]


def check_licences(libraries: Iterable[Distribution]) -> None:
    """
    Check that each library may be used by code under Apache-2.0.

    :raises LicenceError: naming each that may not, or that states no licence.
    """
    wrong = [
        f"{library.name} {library.version}: {licence(library) or 'states no licence'}"
        for library in libraries
        if canonicalize_name(library.name) not in ACCEPTED
        and not any(re.search(rf"\b{re.escape(word)}", licence(library).lower()) for word in ALLOWED)
    ]
    if wrong:
        raise LicenceError("licences to check (scripts/sbom.py):\n  " + "\n  ".join(sorted(wrong)))


def bill(name: str, version: str, requirements: Sequence[str]) -> dict[str, Any]:
    """Return the bill of materials of a package, as CycloneDX describes it."""
    libraries = closure(requirements)
    check_licences(library for library, _ in libraries.values())
    refs = {key: f"pkg:pypi/{key}@{library.version}" for key, (library, _) in libraries.items()}
    root = f"pkg:pypi/{name}@{version}"
    direct = {canonicalize_name(Requirement(text).name) for text in requirements}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "library",
                "bom-ref": root,
                "name": name,
                "version": version,
                "purl": root,
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            }
        },
        "components": [
            {
                "type": "library",
                "bom-ref": refs[key],
                "name": library.name,
                "version": library.version,
                "purl": refs[key],
                "licenses": [{"license": {"name": licence(library)}}],
            }
            for key, (library, _) in sorted(libraries.items())
        ],
        "dependencies": [
            {"ref": root, "dependsOn": sorted(refs[key] for key in direct)},
            *(
                {"ref": refs[key], "dependsOn": sorted(refs[child] for child in children)}
                for key, (_, children) in sorted(libraries.items())
            ),
        ],
    }


def write(path: Path, name: str, version: str, requirements: Sequence[str]) -> Path:
    """
    Write the bill of materials of a package.

    :raises LicenceError: if a dependency has a licence that is not allowed.
    """
    path.write_text(json.dumps(bill(name, version, requirements), indent=1) + "\n")
    return path


def validate(path: Path) -> None:
    """
    Check a bill of materials by the schema of CycloneDX.

    :raises ValueError: if it is not valid.
    """
    from cyclonedx.schema import SchemaVersion  # pyright: ignore[reportMissingImports]  # of the extra dist
    from cyclonedx.validation.json import JsonStrictValidator  # pyright: ignore[reportMissingImports]

    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(path.read_text())
    if error is not None:
        raise ValueError(f"{path.name} is not a valid bill of materials: {error}")
