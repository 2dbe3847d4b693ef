"""Text from outside, made safe to show."""


def printable(text: str) -> str:
    """The text with characters escaped that a terminal would obey, or that change its direction."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
