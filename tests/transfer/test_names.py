from __future__ import annotations

import unicodedata
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_magichour._transfer.file_names import distinct, safe_name


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/a/output.png", "output.png"),
        ("/a/output.png?X-Amz-Signature=abc", "output.png"),
        ("/a/b%20c.mp4", "b c.mp4"),
        ("/bucket/folder%2Foutput.wav", "output.wav"),
        ("/a/..%2f..%2fetc%2fpasswd", "passwd"),
        ("/a/%252e%252e%252fpasswd", "_2e_2e_2fpasswd"),
        ("/a/..%5c..%5cwin.ini", "win.ini"),
        ("/../..", "output"),
        ("/", "output"),
        ("", "output"),
        ("/a/", "a"),
        ("/a/.bashrc", "bashrc"),
        ("/a/x..y.png", "x.y.png"),
        ("/a/CON.png", "_CON.png"),
        ("/a/com1", "_com1"),
        ("/a/nul .txt", "_nul .txt"),
        ("/a/a%00b%0a.png", "a_b_.png"),
        ("/a/evil%E2%80%AEgnp.exe", "evil_gnp.exe"),
        ("/a/C%3A%5Cx.png", "x.png"),
        ("/a/a%3Ab%7Cc%2A.png", "a_b_c_.png"),
        ("/a/trailing.%20", "trailing"),
        ("/a/%E5%86%99%E7%9C%9F.jpg", "写真.jpg"),
    ],
)
def test_file_names_come_from_urls(path, name):
    assert safe_name(f"https://files.example.com{path}") == name


def test_long_name_keeps_its_extension():
    name = safe_name(f"https://x.example.com/{'é' * 300}.mp4")
    assert name.endswith("é.mp4")
    assert len(name.encode()) <= 180


def check_safe(name):
    assert name
    assert name not in {".", ".."}
    assert ".." not in name
    assert not name.startswith(".")
    assert not set('/\\:*?"<>|%#') & set(name)
    assert len(name.encode()) <= 190
    assert name == name.strip(" .")
    assert all(unicodedata.category(character)[0] != "C" for character in name)


@given(st.text(max_size=400))
def test_every_segment_gives_a_safe_name(text):
    check_safe(safe_name(f"https://files.example.com/p/{quote(text, safe='', errors='replace')}"))


@given(st.text(max_size=100))
def test_every_text_gives_a_safe_name(text):
    check_safe(safe_name(text))


@given(st.lists(st.sampled_from(["a.png", "A.PNG", "a-2.png", "output", "é.png", "e\u0301.png", "ß", "SS"])))
def test_names_are_distinct_on_every_file_system(names):
    result = distinct(names)
    assert len(result) == len(names)
    folded = {unicodedata.normalize("NFKC", name).casefold() for name in result}
    assert len(folded) == len(names)


def test_first_of_equal_names_keeps_its_name():
    assert distinct(["output.png", "output.png", "Output.PNG", "x"]) == [
        "output.png",
        "output-2.png",
        "Output-3.PNG",
        "x",
    ]
