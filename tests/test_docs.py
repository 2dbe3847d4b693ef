"""Links in README and docs, and the site made of them."""

import importlib.util
import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT

TOP = ("README.md", "CONTRIBUTING.md", "SECURITY.md")
PAGES = [*(ROOT / name for name in TOP), *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def anchors(path):
    """The anchors of a page's headings, as GitHub makes them."""
    words = (re.sub(r"[^\w\- ]", "", text.lower()) for text in HEADING.findall(path.read_text()))
    return {text.strip().replace(" ", "-") for text in words}


def broken(page):
    found = []
    for target in LINK.findall(re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)):
        if "://" in target:
            continue  # not asked for: tests work without a network
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            found.append(target)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    assert broken(page) == []


def test_a_broken_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One two\n[a](none.md) [b](#one-two) [c](#three) [d](page.md#one-two)\n")
    assert broken(page) == ["none.md", "#three"]


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("mkdocs"), reason="needs mkdocs: `make docs`")
def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "site" / "python" / "index.html").read_text()
    for name in ("alexnet_jax.AlexNet", "alexnet_torch.AlexNet", "alexnet.api.predict"):
        assert f'id="{name}"' in page, name
    outside = re.findall(r'(?:src|rel="stylesheet" href)="(https?://[^"]+)"', page)
    assert outside == []
