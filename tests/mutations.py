"""Random damage to bytes, as disks, crashes and people do it."""

KINDS = ("cut", "flip", "zeros", "repeat", "drop", "insert", "append", "swap")
_WORDS = (
    *(b"null", b"true", b"[]", b"{}", b'"x"', b"-1", b"NaN", b"1e999", b"9" * 400),
    *(b"[" * 2000, b"\xff\xfe", b"\0", b"\\ud800", b"..", b"99999999999999999999"),
)


def mutated(content, rng, kind=None):
    """Return other bytes than `content`, damaged at a random place."""
    kind = kind or KINDS[rng.integers(len(KINDS))]
    place = int(rng.integers(max(1, len(content))))
    length = int(rng.integers(1, 33))
    head, middle, tail = (
        content[:place],
        content[place : place + length],
        content[place + length :],
    )
    word = _WORDS[rng.integers(len(_WORDS))]
    found = {
        "cut": lambda: head,
        "flip": lambda: head + flipped(content[place : place + 1], rng)
        + content[place + 1 :],
        "zeros": lambda: head + b"\0" * len(middle) + tail,
        "repeat": lambda: head + middle + middle + tail,
        "drop": lambda: head + tail,
        "insert": lambda: head + word + content[place:],
        "append": lambda: content + word,
        "swap": lambda: tail + middle + head,
    }[kind]()  # fmt: skip
    return found if found != content else content + b"\0"


def flipped(byte, rng):
    return bytes([byte[0] ^ (1 << int(rng.integers(8)))]) if byte else b"\1"


def token_swapped(text, rng):
    """Return a JSON text with one value, of any depth, replaced by a word."""
    places = [i for i, letter in enumerate(text) if letter in b":,[{"]
    place = places[rng.integers(len(places))] + 1 if places else 0
    end = place
    while end < len(text) and text[end] not in b",]}":
        end += 1
    return text[:place] + _WORDS[rng.integers(len(_WORDS))] + text[end:]
