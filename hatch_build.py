"""
The readme of the package index. The links of README.md are relative, so an index cannot follow them.

With ``Source`` in ``[project.urls]``, they become links to that repository. Without it, their text remains.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"(?P<picture>!?)\[(?P<text>[^]]*)\]\((?P<target>(?!https?:|#)[^)]+)\)")
_NOTE = "The pages that are named here are in the folder `docs/` of the source distribution.\n\n"


def readme_of_index(text: str, source: str | None) -> str:
    """
    Return a readme that needs no other files.

    :param text: README.md.
    :param source: the URL of the repository at GitHub, or None.
    """
    if source:
        views = {"": "blob", "!": "raw"}
        return _LINK.sub(
            lambda link: (
                f"{link['picture']}[{link['text']}]({source}/{views[link['picture']]}/HEAD/{link['target']})"
            ),
            text,
        )
    title, _, rest = _LINK.sub(lambda link: "" if link["picture"] else link["text"], text).partition("\n")
    return f"{title}\n\n{rest.lstrip()}".replace("## Read on\n\n", f"## Read on\n\n{_NOTE}")


class ReadmeHook(MetadataHookInterface):
    """Gives the readme to the metadata."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add the readme."""
        text = Path(self.root, "README.md").read_text("utf-8")
        source = metadata.get("urls", {}).get("Source")
        metadata["readme"] = {"content-type": "text/markdown", "text": readme_of_index(text, source)}
