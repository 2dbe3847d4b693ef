"""Text from outside, made safe to show."""


def counted(number: int, noun: str) -> str:
    """A number of things: "1 step", "1,200 steps", "10 classes"."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{ending}"


def printable(text: str) -> str:
    """The text with characters escaped that a terminal would obey, or that change its direction."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
