"""Text from external sources, made safe to show."""


def is_text(value: object, longest: int) -> bool:
    """Return True if a JSON value is UTF-8 encodable text of at most `longest` characters."""
    if not isinstance(value, str) or len(value) > longest:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def storable(text: str) -> str:
    """The text made encodable in UTF-8: file names that aren't have lone surrogates."""
    return text.encode(errors="backslashreplace").decode()


def counted(number: int, noun: str) -> str:
    """A number of things: "1 step", "1,200 steps", "10 classes"."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{ending}"


def printable(text: str) -> str:
    """The text with terminal control characters, and those that change its direction, escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
