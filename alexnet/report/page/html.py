"""HTML and SVG from Python values: whatever isn't markup already is escaped."""

import html
import json
from collections.abc import Iterable
from typing import Any

from alexnet.text import printable

LONGEST = 120  # characters of a name that are shown
_VOID = ("meta", "img", "input", "br", "hr")


class Html(str):
    """Text that is markup already."""


def clean(text: object, longest: int = LONGEST) -> str:
    """Text for people: bounded, with control characters and bidi overrides spelled out."""
    words = str(text)
    cut = words[:longest] + ("…" if len(words) > longest else "")
    return printable(cut)


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """An element.

    Args:
        name: of the element.
        children: markup, text, which is escaped, or iterables of both; None adds nothing.
        attributes: a trailing underscore is dropped and the others become hyphens; True makes an
            attribute without a value, None and False make none.
    """
    words = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        label = key.rstrip("_").replace("_", "-")
        words.append(label if value is True else f'{label}="{_escaped(value, quote=True)}"')
    opened = Html(f"<{' '.join(words)}>")
    return opened if name in _VOID else Html(f"{opened}{joined(*children)}</{name}>")


def joined(*children: object) -> Html:
    """Markup of several pieces, one after another."""
    return Html("".join(map(_piece, children)))


def _piece(child: object) -> str:
    if child is None:
        return ""
    if isinstance(child, Html):
        return child
    if isinstance(child, Iterable) and not isinstance(child, str | bytes):
        return "".join(map(_piece, child))
    return _escaped(child, quote=False)


def _escaped(value: object, quote: bool) -> str:
    """Escape a value in full: names are shortened where they come in, by `clean`."""
    if isinstance(value, float):
        return f"{value:.6g}"
    text = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in str(value))
    return html.escape(text, quote=quote)


def sides(*numbers: int) -> str:
    """A size as people write it, with multiplication signs: 11, 11, 3."""
    return "\N{MULTIPLICATION SIGN}".join(map(str, numbers))


def embedded(value: Any, id_: str) -> Html:
    """JSON in the page, for its script: no string in it can end the element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Html(f'<script type="application/json" id="{html.escape(id_)}">{text}</script>')


def table(
    caption: str, head: Iterable[object], rows: Iterable[Iterable[object]], **attributes: object
) -> Html:
    """A table whose first column names its rows."""
    return tag(
        "table",
        tag("caption", caption),
        tag("thead", tag("tr", (tag("th", cell, scope="col") for cell in head))),
        tag("tbody", (_row(list(row)) for row in rows)),
        **attributes,
    )


def _row(cells: list[object]) -> Html:
    return tag("tr", tag("th", cells[0], scope="row"), (tag("td", cell) for cell in cells[1:]))


def scrolled(label: str, *children: object, **attributes: object) -> Html:
    """A region that scrolls by itself where the screen is too narrow, also by keyboard."""
    return tag(
        "div",
        *children,
        **{"class_": "scroll", "tabindex": 0, "role": "region", "aria_label": label, **attributes},
    )
