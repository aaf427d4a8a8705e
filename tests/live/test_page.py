"""The page's files are small and load nothing from another host."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("starlette")
from gpuconv.live.app import MEDIA_TYPES, STATIC

FILES = {path.name: path.read_text() for path in STATIC.iterdir()}


def test_the_page_is_small_and_each_of_its_files_is_served():
    assert sum(len(text.encode()) for text in FILES.values()) < 200_000
    assert {name[name.rindex(".") :] for name in FILES} == {*MEDIA_TYPES}


def test_nothing_comes_from_another_host():
    for name, text in FILES.items():
        assert not re.search(r"https?:|//\w+\.\w|@import|url\(|\beval\b|innerHTML|style=", text), name


def test_every_imported_module_exists():
    imported = {other for text in FILES.values() for other in re.findall(r'from "\./([^"]+)"', text)}
    assert "api.js" in imported
    assert imported <= FILES.keys()


def test_every_element_that_the_script_uses_exists():
    ids = set(re.findall(r'id="([^"]+)"', FILES["index.html"]))
    used = set(re.findall(r'(?:\$|\bput)\("([^"]+)"', FILES["page.js"]))
    assert "error" in used
    assert used <= ids
