"""What the reference shows of the code: docstrings without Sphinx's roles, defaults in words."""

# mypy: disable-error-code="misc,import-not-found"
# griffe comes with the extra docs, which not every environment has.
from __future__ import annotations

import re
from typing import Any

import griffe  # pyright: ignore[reportMissingImports]

ROLE = re.compile(r":(?:class|meth|func|data|attr|mod|exc):`~?(?:[\w.]*\.)?(\w+)`")
#: Defaults that are read from Airflow's configuration, as a reader knows them.
DEFAULTS = {"conf.getboolean('operators', 'default_deferrable', fallback=False)": "default_deferrable"}


class PlainDocstrings(griffe.Extension):
    """Change the loaded objects before their page is made."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Replace the roles in the docstring of a module, class, function or attribute."""
        if obj.docstring:
            obj.docstring.value = ROLE.sub(r"`\1`", obj.docstring.value).replace("``", "`")

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        """Replace the defaults that are calls."""
        for parameter in func.parameters:
            if (default := str(parameter.default).replace('"', "'")) in DEFAULTS:
                parameter.default = DEFAULTS[default]
