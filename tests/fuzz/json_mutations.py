"""Changes of the structure of what JSON describes: trace metadata and safetensors headers."""

from __future__ import annotations

import copy
import json
from random import Random
from typing import Any

__all__ = ["NAMES", "mutate_json", "mutate_safetensors"]

NAMES = (
    "",
    " ",
    "\0",
    "a\nb\tc\x1b[31mred\x07",
    "‮gnp.exe",
    "\ud800",
    "x" * 70_000,
    "../../etc/passwd",
    "<script>alert(1)</script>",
    "{{ 7 * 7 }}",
    "[bold]markup[/bold]",
    "%s%n",
    "层/輸出:0",
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1,
    2**31,
    -(2**63),
    2**64,
    10**400,
    0.5,
    1e308,
    float("nan"),
    float("inf"),
    [],
    {},
    [[]],
    [-1],
    [2**40, 2**40],
    {"$array": "AAAA", "dtype": "float32", "shape": [-1]},
    {"$array": "?", "dtype": "O", "shape": []},
    {"$bytes": 3},
    *NAMES,
)


def mutate_json(value: Any, rng: Random) -> Any:
    """A deep copy of `value` with one to three of its parts replaced, dropped, doubled, swapped or nested."""
    changed = [copy.deepcopy(value)]  # in a list, so that the root has a place too
    for _ in range(rng.choice((1, 1, 3))):
        places = list(_places(changed))
        parent, key = rng.choice(places)
        rng.choice((_replace, _replace, _drop, _double, _swap, _nest))(parent, key, places, rng)
        if not changed:
            changed = [None]
    return changed[0]


def _places(value: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting and len(found) < 20_000:
        parent = waiting.pop()
        keys = list(parent) if isinstance(parent, dict) else range(len(parent))
        for key in keys:
            found.append((parent, key))
            if isinstance(parent[key], dict | list):
                waiting.append(parent[key])
    return found


def _replace(parent: Any, key: Any, places: list[Any], rng: Random) -> None:
    parent[key] = copy.deepcopy(rng.choice(VALUES))


def _drop(parent: Any, key: Any, places: list[Any], rng: Random) -> None:
    del parent[key]


def _double(parent: Any, key: Any, places: list[Any], rng: Random) -> None:
    if isinstance(parent, list):
        parent.insert(key, copy.deepcopy(parent[key]))
    else:
        parent[rng.choice(NAMES)] = copy.deepcopy(parent[key])


def _swap(parent: Any, key: Any, places: list[Any], rng: Random) -> None:
    other, there = rng.choice(places)
    parent[key] = copy.deepcopy(other[there])


def _nest(parent: Any, key: Any, places: list[Any], rng: Random) -> None:
    for _ in range(rng.choice((1, 100))):
        parent[key] = [parent[key]] if rng.random() < 0.5 else {"": parent[key]}


def dump(value: Any, rng: Random) -> bytes:
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    if rng.random() < 0.05:
        return b"[" * 100_000 + text
    return text


def mutate_safetensors(data: bytes, rng: Random) -> bytes:
    """The header changed, or the metadata inside it, with a length that fits."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    own = header.get("__metadata__", {}).get("aligndbg")
    if own is not None and rng.random() < 0.7:
        header["__metadata__"]["aligndbg"] = dump(mutate_json(json.loads(own), rng), rng).decode("utf-8", "replace")
    else:
        header = mutate_json(header, rng)
    text = dump(header, rng)
    return len(text).to_bytes(8, "little") + text + data[8 + size :]
