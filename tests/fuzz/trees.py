"""Random changes of trees of dicts and lists, such as configs and checkpoints."""

from collections.abc import Iterator, MutableMapping, MutableSequence
from random import Random
from typing import Any

Place = tuple[Any, Any]  # a dict or a list, and a key or an index in it


def places(tree: Any, depth: int = 6) -> Iterator[Place]:
    """Yield the places of a tree down to a depth; those of a node come before those of its children."""
    if isinstance(tree, MutableMapping):
        keys = list(tree)
    elif isinstance(tree, MutableSequence):
        keys = list(range(len(tree)))
    else:
        return
    for key in keys:
        yield tree, key
    if depth > 1:
        for key in keys:
            yield from places(tree[key], depth - 1)


def misspelt(word: str, random: Random) -> str:
    """Remove one or two letters from a word."""
    at = random.randrange(len(word))
    return word[:at] + word[at + random.choice((1, 2)) :]


def change(tree: Any, random: Random, values: tuple[Any, ...]) -> str:
    """Drop, rename or replace one entry of a tree; return a description."""
    holder, key = random.choice(list(places(tree, random.choice((1, 2, 3)))))
    how = random.choice(("drop", "value", "value", "value", "name"))
    if how == "name" and isinstance(key, str):
        holder[misspelt(key, random)] = holder.pop(key)
    elif how == "drop":
        del holder[key]
    else:
        holder[key] = random.choice(values)
        return f"{key} = {holder[key]!r}"
    return f"{how} {key}"
