"""The page's frame: head, navigation and sections, with style and script in the page itself."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from alexnet.report.page.html import Html, clean, tag
from alexnet.workdir import PAGE_MARK


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading."""

    id: str
    title: str
    body: Html


def document(title: str, sections: Sequence[Section], first: str | None) -> str:
    """The HTML of a page that loads nothing and runs nothing but its own script.

    Args:
        title: of the page, text.
        sections: in their order.
        first: the run that the sections after the curves show, where there are several.
    """
    style, script = _text("page.css"), _text("page.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; "
        f"script-src '{_digest(script)}'; base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="generator", content=PAGE_MARK),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"AlexNet: {clean(title)}"),
        tag("style", Html(style)),
    )
    links = [tag("li", tag("a", section.title, href=f"#{section.id}")) for section in sections]
    theme = tag(
        "button", "Dark", type="button", id="theme", aria_pressed="false", title="Light or dark"
    )
    top = tag(
        "header",
        tag("p", "AlexNet report", class_="kicker"),
        tag("h1", clean(title, 200)),
        tag("nav", tag("ul", links), aria_label="Sections"),
        theme,
    )
    body = tag("main", (_section(section, first) for section in sections), id="main")
    skip = tag("a", "Skip to the result", href="#main", class_="skip")
    end = tag("script", Html(script))
    whole = tag("html", head, tag("body", skip, top, body, end), lang="en")
    return f"<!DOCTYPE html>\n{whole}\n"


def _section(section: Section, first: str | None) -> Html:
    own = first if section.id not in ("runs", "curves", "filters") else None
    heading = tag("h2", section.title, own and tag("small", f" {own}"), id=f"{section.id}-title")
    return tag(
        "section", heading, section.body, id=section.id, aria_labelledby=f"{section.id}-title"
    )


def _text(name: str) -> str:
    return files("alexnet.report.page").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """A content-security policy's name for exactly this text."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
