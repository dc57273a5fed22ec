"""The code uses standard terms: none of the old words is in an identifier or a message."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Set
from pathlib import Path

import pytest

import airflow_provider_magichour

PACKAGE = Path(airflow_provider_magichour.__file__).parent
ROOT = PACKAGE.parent
#: The package, and what tests, measures and starts it.
FILES = [
    path
    for folder in (PACKAGE, *(ROOT / name for name in ("tests", "benchmarks", "scripts")))
    for path in sorted(folder.rglob("*.py"))
    if path.name != "test_vocabulary.py" and "data" not in path.relative_to(ROOT).parts
]

#: Each old word with what is said instead. Words are compared in lower case, without plural or ending.
OLD_WORDS = {
    "look": "status check, request",
    "looks": "status checks",
    "looked": "checked",
    "blip": "transient error",
    "blips": "transient errors",
    "trouble": "error",
    "told": "notified, reported",
    "tell": "report, return whether",
    "tells": "reports",
    "judge": "classify",
    "judged": "classified",
    "usual": "typical",
    "watch": "polled project",
    "watches": "polled projects",
    "news": "status change",
    "course": "progress",
    "friend": "known connection",
    "friends": "known connections",
    "stranger": "unknown connection",
    "strangers": "unknown connections",
    "memory": "submit records",
    "recall": "find",
    "intend": "write intent",
    "lasts": "is persistent",
    "front": "middleware",
    "world": "backend",
    "answer": "response",
    "answers": "responses",
    "answered": "responded, status",
    "lenient": "what it does",
    "patiently": "what it does",
    "mend": "retry, repair",
    "mended": "retried, repaired",
    "ridden": "retried",
    "dear": "expensive",
    "dearest": "most expensive",
}
#: Names that others read: Airflow calls them, or 0.1.0 has stored them.
STORED_OR_FOREIGN = {
    "usual_seconds",  # keyword of deferred triggers, stored by 0.1.0
    "told",  # field of submit records, stored by 0.1.0
    "tell",  # of a file
    # of a process, of Python and of fsspec
    "memory",
    "memory_full_info",
    "get_traced_memory",
    "MemoryFileSystem",
}
#: Plain English in messages, where no technical term is meant: word -> part of the message.
PLAIN_ENGLISH = {"look": ("ook at https://", "ook at it in the library", "ook for a new", "ook for faces")}
#: Words that have another meaning in prose, so that docstrings may hold them.
PROSE = {
    "look",
    "looks",
    "looked",
    "tell",
    "tells",
    "lasts",
    "usual",
    "watch",
    "news",
    "course",
    "memory",
    "front",
    "world",
}


#: The names of tests are prose; so is what their programs say of themselves.
PROSE_OF_TESTS = PROSE | {"answer", "told", "tells", "watches", "stranger"}


def words(text: str) -> Iterator[str]:
    """Split at underscores, capitals and anything that is no letter."""
    for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", text):
        yield word.lower()


def identifiers(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Find the identifiers in code: definitions, arguments, assigned names and attributes, keywords."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute):
            yield node.attr, node.lineno
        elif isinstance(node, ast.keyword) and node.arg:
            yield node.arg, node.value.lineno
        elif isinstance(node, ast.alias):
            yield node.asname or node.name.rpartition(".")[2], node.lineno


def is_message(node: ast.AST) -> bool:
    """Return whether a call logs or warns, or a statement raises."""
    if isinstance(node, ast.Raise):
        return True
    if not isinstance(node, ast.Call):
        return False
    function = node.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in {"debug", "info", "warning", "error", "exception", "warn", "log", "add_note"} or (
        name.startswith("MagicHour") and name.endswith("Error")
    )


def messages(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Find the texts of raised errors and log lines; of f-strings, the parts outside of the braces."""
    for node in ast.walk(tree):
        if is_message(node):
            for part in ast.walk(node):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.value, part.lineno


def docstrings(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
            text := ast.get_docstring(node)
        ):
            yield text, getattr(node, "lineno", 1)


def old_words(found: Iterable[tuple[str, int]], allowed: Set[str] = frozenset()) -> list[str]:
    """Return the places of old words, and what to write instead."""
    return [
        f"line {line}: {word!r} in {text.strip()[:80]!r}: say {OLD_WORDS[word]}"
        for text, line in found
        if text not in STORED_OR_FOREIGN
        for word in dict.fromkeys(words(text))
        if word in OLD_WORDS and word not in allowed
        if not any(part in text for part in PLAIN_ENGLISH.get(word, ()))
    ]


def old_words_of(path: Path) -> list[str]:
    tree = ast.parse(path.read_text())
    allowed = PROSE if path.is_relative_to(PACKAGE) else PROSE_OF_TESTS
    found = [*identifiers(tree), *((word, 0) for word in words(path.stem))]
    names = old_words(one for one in found if not one[0].startswith("test_"))
    names += old_words((one for one in found if one[0].startswith("test_")), allowed=allowed)
    prose = old_words(docstrings(tree), allowed=allowed)
    tell_whether = [text for text, _ in docstrings(tree) if re.match(r"(Tell|Say) (whether|if|what)\b", text)]
    return names + old_words(messages(tree)) + prose + tell_whether


PATHS = {str(path.relative_to(ROOT)): path for path in FILES}


@pytest.mark.parametrize("name", sorted(PATHS))
def test_files_use_the_words_of_the_field(name: str) -> None:
    assert old_words_of(PATHS[name]) == []


def test_words_are_split_at_underscores_and_capitals() -> None:
    assert [*words("_lookAt_HTTPError2blip")] == ["look", "at", "http", "error", "blip"]
