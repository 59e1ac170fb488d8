"""Hypothesis strategies: corrupted files and numbers of examples."""

import os
import re
from collections.abc import Callable
from random import Random

from hypothesis import HealthCheck, Phase, settings

# DARKROOM_FUZZ=20 tries twenty times as many examples, with a new seed in every run.
TIMES = int(os.environ.get("DARKROOM_FUZZ", "0"))
NASTY = (
    *(
        b"",
        b"nan",
        b"inf",
        b"-1",
        b"0",
        b"1e308",
        b"-1e400",
        b"9" * 30,
        b"0.5",
        b"null",
        b"true",
        b"[]",
        b"{}",
        b'"x"',
        b'""',
    ),
    *(
        b"\x00",
        b"\xff\xfe",
        "é".encode(),
        b" ",
        b"\n",
        b"\t",
        b"..",
        b"/",
        b"[[[]]]",
        b"<object/>",
        b"-",
        b"1,2",
        b"NaN",
    ),
)
_TOKEN = re.compile(rb"-?[\d.]+|\w+|[^\w\s]|\s+")


def examples(count: int) -> settings:
    """Return settings of a property: few fixed examples, unless DARKROOM_FUZZ asks for more."""
    return settings(
        max_examples=count * max(1, TIMES),
        derandomize=not TIMES,
        deadline=None,
        database=None,
        phases=(Phase.explicit, Phase.generate),  # no shrinking: a smaller seed does not give a simpler example
        suppress_health_check=list(HealthCheck),
    )


def _cut(content: bytes, random: Random) -> bytes:
    return content[: random.randrange(len(content) + 1)]


def _empty(content: bytes, random: Random) -> bytes:
    return b""


def _flipped(content: bytes, random: Random) -> bytes:
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 8))):
        if changed:
            changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def _noise(content: bytes, random: Random) -> bytes:
    """Overwrite bytes, most often near the start, where the headers are."""
    start = random.randrange(min(len(content), random.choice((64, len(content) or 1))) + 1)
    return content[:start] + bytes(random.randrange(256) for _ in range(random.choice((1, 4)))) + content[start + 4 :]


def _without(content: bytes, random: Random) -> bytes:
    start = random.randrange(len(content) + 1)
    return content[:start] + content[start + random.choice((1, 10, 100)) :]


def _twice(content: bytes, random: Random) -> bytes:
    return content + content


def _token(content: bytes, random: Random) -> bytes:
    """Replace a number, a word or a sign by another token."""
    tokens = list(_TOKEN.finditer(content))
    if not tokens:
        return content
    found = random.choice(tokens)
    return content[: found.start()] + random.choice(NASTY) + content[found.end() :]


BYTES: tuple[Callable[[bytes, Random], bytes], ...] = (_cut, _empty, _flipped, _noise, _without, _twice)
TEXT = (_token, _token, _token, _token, *BYTES)


def corrupted(content: bytes, text: bool, random: Random) -> bytes:
    """Corrupt the content of a file, as a full disk, a bad cable, a wrong tool or a typo would."""
    return random.choice(TEXT if text else BYTES)(content, random)
