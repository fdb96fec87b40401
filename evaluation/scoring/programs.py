"""The program in an answer: a whole function with what it needs where there is one, else the prompt continued."""

import ast
import re
import warnings
from collections.abc import Iterable, Iterator
from textwrap import dedent, indent

_FENCE = re.compile(r"[ \t]*(?:(?:[-*+>]|\d+[.)])[ \t]+)?(?P<marks>`{3,}|~{3,})(?P<info>[^`\n]*)$")
_START = re.compile(r"(?:def|async def|class|import|from|@)\b|@")
_FUTURE = re.compile(r"^from __future__ import .*$", re.MULTILINE)
_FILLERS = ("dict", "list", "set", "tuple", "frozenset", "range", "defaultdict")  # calls that only make a value
_Function = ast.FunctionDef | ast.AsyncFunctionDef


def program(answer: str, prompt: str, entry_point: str) -> str:
    """The candidate program of an answer to `prompt`, which ends with the signature and docstring of `entry_point`.

    The prompt stands in front, because imports and helpers of the problem live there. Of several blocks the first that
    writes the function out counts, with imports, helpers and constants of the others. `if __name__ == "__main__"` goes.
    """
    answer = _lines_of_one_kind(answer)
    blocks = list(code_blocks(answer)) or [_code_in_prose(answer)]
    whole = [block for block in blocks if _defines(block, entry_point)]
    if not whole:
        return _continued(_lines_of_one_kind(prompt), blocks)
    chosen = next((block for block in whole if not _is_stub(block, entry_point)), whole[0])
    others = [_definitions(block, {entry_point}) for block in blocks if block is not chosen]
    code = "\n\n".join([stub(prompt), *filter(None, others), _without_main(chosen)])
    return _future_first(code)


def stub(prompt: str) -> str:
    """The prompt as a valid program: its last function has a signature and a docstring, so `pass` completes it."""
    prompt = _lines_of_one_kind(prompt).rstrip()
    return f"{prompt}\n{_margin(prompt)}pass\n"


def code_blocks(text: str) -> Iterator[str]:
    """What stands between fences, in any language, without the margin of a fence inside a list.

    A block ends at the first fence that leaves valid Python, since a docstring may hold fences too; where none does, at
    the first one, and at the end of the text where there is none.
    """
    lines = text.split("\n")
    at = 0
    while at < len(lines):
        opening = _FENCE.fullmatch(lines[at])
        at += 1
        if opening:
            code, at = _block(lines, at, opening["marks"])
            yield code


def _block(lines: list[str], start: int, marks: str) -> tuple[str, int]:
    """The block from a line on, and the number of the line behind it."""
    ends = [at for at in range(start, len(lines)) if _closes(lines[at], marks)] + [len(lines)]
    for end in ends:
        code = dedent("\n".join(lines[start:end]))
        if _parsed(code) is not None or _parsed(f"def body():\n{indent(code, '    ')}") is not None:
            return code, end + 1
    return dedent("\n".join(lines[start : ends[0]])), ends[0] + 1


def _closes(line: str, marks: str) -> bool:
    line = line.strip()
    return len(line) >= len(marks) and set(line) == {marks[0]}


def _code_in_prose(text: str) -> str:
    """The longest valid piece from the first line on that looks like code; all of it where there is none."""
    if _parsed(text) is not None:
        return text
    lines = text.split("\n")
    start = next((at for at, line in enumerate(lines) if _START.match(line)), None)
    if start is None:
        return text
    ends = range(len(lines), start, -1)
    return next((code for end in ends if _parsed(code := "\n".join(lines[start:end])) is not None), text)


def _continued(prompt: str, blocks: list[str]) -> str:
    """The prompt and a body: the first that makes a valid program, as it is, moved in, or with a lost first margin."""
    margin = _margin(prompt.rstrip())
    for block in blocks:
        for body in (block, indent(dedent(block), margin), margin + block.lstrip()):
            joined = prompt + ("" if prompt.endswith("\n") else "\n") + body
            if _parsed(joined) is not None:
                return joined
    return prompt + blocks[0]


def _margin(prompt: str) -> str:
    """Of a function's body: that of the docstring's last line."""
    last = prompt.rpartition("\n")[2]
    return last[: len(last) - len(last.lstrip())] or "    "


def _defines(code: str, name: str) -> bool:
    """Whether the code binds exactly this name, and not a longer one that starts with it."""
    tree = _parsed(code)
    if tree is None:
        return re.search(rf"^\s*(?:async\s+)?def\s+{re.escape(name)}\s*\(", code, re.MULTILINE) is not None
    return any(name in _bound(node) for node in tree.body)


def _bound(node: ast.stmt) -> Iterable[str]:
    if isinstance(node, _Function | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _is_stub(code: str, name: str) -> bool:
    """Whether the function has no body of its own: the question said once more."""
    tree = _parsed(code)
    found = [node for node in tree.body if isinstance(node, _Function) and node.name == name] if tree else []
    return bool(found) and all(_says_nothing(node) for node in found[-1].body)


def _says_nothing(node: ast.stmt) -> bool:
    is_raised = isinstance(node, ast.Raise) and "NotImplemented" in ast.dump(node)
    return (
        is_raised or isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
    )


def _definitions(code: str, without: set[str]) -> str:
    """Imports, functions, classes and constants of a block; nothing that runs the program, such as an example."""
    tree = _parsed(code)
    kept = [node for node in tree.body if _is_definition(node) and not without & set(_bound(node))] if tree else []
    return "\n".join(map(ast.unparse, kept))


def _is_definition(node: ast.stmt) -> bool:
    if isinstance(node, ast.Assign | ast.AnnAssign):
        calls = [part for part in ast.walk(node) if isinstance(part, ast.Call)]
        return all(isinstance(call.func, ast.Name) and call.func.id in _FILLERS for call in calls)
    return isinstance(node, _Function | ast.ClassDef | ast.Import | ast.ImportFrom)


def _without_main(code: str) -> str:
    tree = _parsed(code)
    lines = code.split("\n")
    for node in reversed(tree.body if tree else []):
        if isinstance(node, ast.If) and "__name__" in ast.dump(node.test) and "__main__" in ast.dump(node.test):
            lines[node.lineno - 1 : node.end_lineno] = []
    return "\n".join(lines)


def _future_first(code: str) -> str:
    """Imports from `__future__` are valid at the beginning only."""
    imports = _FUTURE.findall(code)
    return "\n".join([*dict.fromkeys(imports), _FUTURE.sub("", code)]) if imports else code


def _parsed(code: str) -> ast.Module | None:
    """None where it is no program, though its names may mean nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes that mean nothing
        try:
            tree = ast.parse(code)
            compile(code, "answer", "exec", dont_inherit=True)  # refuses more: a return outside of a function
        except (SyntaxError, ValueError, RecursionError, MemoryError):  # a null byte, a tower of brackets
            return None
    return tree


def _lines_of_one_kind(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")
