"""YAML as this project's files are written: a table of keys, each once, numbers like 1e-3 as numbers.

PyYAML alone takes the last of two equal keys without a word, and reads `1e-3` (without a point) as text.
"""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from eagle.files import read_text

MOST_VALUES = 100_000  # of a file with its aliases written out: a few lines of them can stand for billions
NUMBER = re.compile(r"[-+]?(\d[\d_]*)(\.[\d_]*)?[eE][-+]?\d+$")


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        own = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        seen: set[Hashable] = set()
        for key in own:
            name = self.construct_object(key, deep=True)
            if isinstance(name, Hashable) and name in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {name} stands twice", problem_mark=key.start_mark)
            if isinstance(name, Hashable):
                seen.add(name)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", NUMBER, list("-+0123456789"))


def read_yaml(path: Path) -> dict[str, Any]:
    """The table in a YAML file, empty for an empty file. Raises ValueError or OSError that names the file, the line
    and what is wrong with it."""
    text = read_text(path)
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        _check_size(node)
        values = {} if node is None else loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {_told(error)}") from None
    except RecursionError:
        raise ValueError(f"{path} is no YAML that can be read: lists in lists too deep") from None
    except ValueError as error:  # of a date or number that is none
        raise ValueError(f"{path} holds a value that cannot be read: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected 'key: value' lines, found a {type(values).__name__}")
    return values


def _told(error: yaml.YAMLError) -> str:
    """One line of what a parser says in several."""
    mark = getattr(error, "problem_mark", None)
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    remedy = "; indent with spaces" if "\\t" in problem else ""
    return place + " ".join(str(problem).split()) + remedy


def _check_size(node: Any) -> None:
    """Raises YAMLError for an alias inside of itself, and for aliases that make a file huge."""
    sizes: dict[int, int] = {}  # by node: an alias is the very node that it names

    def size(one: Any) -> int:
        if id(one) not in sizes:
            sizes[id(one)] = MOST_VALUES + 1  # while it is counted: only a node that holds itself asks
            children = [] if not isinstance(one.value, list) else one.value
            parts = [part for child in children for part in (child if isinstance(child, tuple) else (child,))]
            sizes[id(one)] = 1 + sum(map(size, parts))
        return sizes[id(one)]

    if node is not None and size(node) > MOST_VALUES:
        raise yaml.MarkedYAMLError(problem=f"aliases make more than {MOST_VALUES} values of it: write less")
