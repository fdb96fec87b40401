"""The rows of a file of prompts, whatever its form: told by what the file holds, since names promise little.

JSON lines, a JSON array, JSON objects behind each other, each of them gzipped or not, and parquet. What cannot be read
of a file stands among its rows as ``Damaged``; only a file of which nothing can be read is refused.
"""

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eagle.packages import need

GZIP, PARQUET = b"\x1f\x8b", b"PAR1"  # how such files begin
OTHERS = {b"(\xb5/\xfd": "zstd", b"BZh": "bzip2", b"\xfd7z": "xz", b"PK\x03\x04": "zip", b"ARRO": "arrow"}
BLANK = " \t\r\n\ufeff"  # between values; a byte order mark inside is left where files were joined
NOT_JSON = (ValueError, RecursionError)  # of absurd numbers and depths too


@dataclass(frozen=True)
class Damaged:
    """Stands where a row should be."""

    reason: str


def read_rows(path: Path) -> Iterator[Any]:
    """The rows of a file in their order. Raises OSError or ValueError that names the file where it cannot be read."""
    if path.is_dir():
        inside = next((entry for entry in sorted(path.iterdir()) if entry.is_file()), path / "FILE")
        raise IsADirectoryError(f"{path} is a directory: name one file of prompts, as {inside}")
    if not path.exists():
        raise FileNotFoundError(f"no prompts at {path}: name a file, or a dataset of the hub")
    with path.open("rb") as file:
        opening = file.read(len(PARQUET))
        if form := next((OTHERS[magic] for magic in OTHERS if opening.startswith(magic)), None):
            raise ValueError(f"{path} is in the form of {form}: unpack it, or write it as JSON lines or parquet")
        if opening == PARQUET:
            return _parquet_rows(path)
        return _text_rows(opening + file.read())


def json_values(text: str) -> Iterator[Any]:
    """The values of JSON lines, of an array, or of objects that go over several lines."""
    start = _next_place(text, 0, BLANK)
    first_line, _, more = text[start:].partition("\n")
    more = more.strip(BLANK)
    if text.startswith("[", start) and not (more and _is_json(first_line)):
        return _values(text, start + 1, closing="]")
    if more and text.startswith("{", start) and not _is_json(first_line) and _begins_value(text, start):
        return _values(text, start, closing="")
    return _line_values(text)


def _text_rows(raw: bytes) -> Iterator[Any]:
    raw, is_whole = _unzipped(raw) if raw.startswith(GZIP) else (raw, True)
    encoding = json.detect_encoding(raw)
    # bytes that are no UTF-8 become halves of characters: the rows that hold them are found out by those
    errors = "surrogateescape" if encoding.startswith("utf-8") else "replace"
    yield from json_values(raw.decode(encoding, errors))
    if not is_whole:
        yield Damaged("the compressed file breaks off: what follows is lost")


def _unzipped(raw: bytes) -> tuple[bytes, bool]:
    """What is inside, and whether it is whole."""
    parts: list[bytes] = []
    try:
        with gzip.open(io.BytesIO(raw)) as file:
            while part := file.read1(1 << 16):
                parts.append(part)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        return b"".join(parts), False
    return b"".join(parts), True


def _parquet_rows(path: Path) -> Iterator[Any]:
    parquet = need("pyarrow.parquet")
    try:
        for batch in parquet.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
    except (need("pyarrow").ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} cannot be read as parquet ({reason}): is it whole?") from None


def _line_values(text: str) -> Iterator[Any]:
    for line in io.StringIO(text, newline="\n"):  # other line ends may stand inside a text
        if line := line.strip(BLANK):
            try:
                yield json.loads(line)
            except NOT_JSON:
                yield Damaged("a line is not JSON")


def _values(text: str, position: int, closing: str) -> Iterator[Any]:
    """One by one, so that a file cut at its end gives what came before the cut.

    Behind a damaged value it goes on where a line begins as the first value's did.
    """
    decoder = json.JSONDecoder()
    position = _next_place(text, position, BLANK)
    line_start = text.rfind("\n", 0, position) + 1
    next_line = "\n" + text[line_start:position].strip("[\ufeff") + "{"
    while position < len(text) and not (closing and text.startswith(closing, position)):
        try:
            row, position = decoder.raw_decode(text, position)
        except NOT_JSON:
            position = text.find(next_line, position)
            if position < 0:
                yield Damaged("the JSON breaks off: what follows is lost")
                return
            yield Damaged("a value is not JSON")
        else:
            yield row
        position = _next_place(text, position, BLANK + ",")
    if closing and position >= len(text):
        yield Damaged("the JSON array has no end: what follows is lost")


def _next_place(text: str, position: int, passed: str) -> int:
    """The first place from `position` on that holds none of the characters `passed`."""
    while position < len(text) and text[position] in passed:
        position += 1
    return position


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except NOT_JSON:
        return False
    return True


def _begins_value(text: str, position: int) -> bool:
    try:
        json.JSONDecoder().raw_decode(text, position)
    except NOT_JSON:
        return False
    return True
