"""Text from outside, made safe to show."""


def is_text(value: object, longest: int) -> bool:
    """Tell whether a value from JSON is text that UTF-8 can hold, of at most so many characters."""
    if not isinstance(value, str) or len(value) > longest:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def storable(text: str) -> str:
    """The text as UTF-8 can hold it: file names that are none come with halves of surrogates."""
    return text.encode(errors="backslashreplace").decode()


def counted(number: int, noun: str) -> str:
    """A number of things: "1 step", "1,200 steps", "10 classes"."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{ending}"


def printable(text: str) -> str:
    """The text with characters escaped that a terminal would obey, or that change its direction."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
