"""Options: types and limits are declared once, checked at construction, shown by the flag; nan is no number."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from eagle.options import build, check_options, identity, load, option, parse


@dataclass(frozen=True)
class Sample:
    """One option of every kind."""

    output: str = option("here", "directory", may_change=True)
    share: float = option(0.5, "a part of 100 %", above=0, at_most=1)
    count: int | None = option(None, "how many", at_least=1)
    colour: str = option("red", "of it", choices=("red", "blue"))
    sizes: tuple[float, ...] = option((1.0, 2.0), "of them", may_change=True, at_least=0, each_once=True)
    free: float = option(0.0, "anything")
    on: bool = option(False, "whether")
    said: str | None = option(None, "perhaps nothing", may_be_empty=True)

    def __post_init__(self) -> None:
        check_options(self)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"share": 0.0}, "share is 0.0, it must be larger than 0$"),
        ({"share": 1.5}, "share is 1.5, it must be at most 1$"),
        ({"share": float("nan")}, "share is nan, it must be a number"),
        ({"free": float("nan")}, "free is nan, it must be a number"),
        ({"count": 0}, "count is 0, it must be at least 1"),
        ({"colour": "green"}, "colour is 'green', choose one of red, blue"),
        ({"sizes": (1.0, -1.0)}, "sizes holds -1.0, it must be at least 0"),
        ({"sizes": (1.0, float("nan"))}, "sizes holds nan, it must be a number"),
        ({"sizes": ()}, r"sizes is \[\]: name at least one, each once"),
        ({"sizes": (1.0, 1.0)}, r"sizes is \[1.0, 1.0\]: name at least one, each once"),
        ({"free": float("inf")}, "free is inf, it must be a finite number"),
        ({"sizes": (1.0, float("-inf"))}, "sizes holds -inf, it must be a finite number"),
        ({"free": 10**400}, "free is 1000.*, expected float, a number below 1e308"),
        ({"free": True}, "free is True, expected float, a number"),
        ({"free": "1e-3"}, "free is '1e-3', expected float, a number: write 1e-3 without quotes"),
        ({"free": 1j}, "free is 1j, expected float, a number"),
        ({"count": True}, "count is True, expected int, a whole number"),
        ({"count": 1e9}, "count is 1000000000.0, expected a whole number: write 1000000000"),
        ({"count": 2**63}, "count is 9223372036854775808, it must fit 64 bits"),
        ({"count": 16**5000}, "count is a number of thousands of digits, it must fit 64 bits"),
        ({"count": "3"}, "count is '3', expected int, a whole number: write 3 without quotes"),
        ({"sizes": (1.0, "2")}, "sizes is '2', expected float"),
        ({"sizes": None}, "sizes is None, expected float"),
        ({"share": None}, "share is None, expected float"),
        ({"output": True}, "output is True, expected text: put it in quotes"),
        ({"output": 3}, "output is 3, expected text"),
        ({"output": None}, "output is None, expected text"),
        ({"output": ""}, "output is '', it must not be empty"),
        ({"output": "a\0b"}, "it must not hold the character 0"),
        ({"colour": ["red"]}, r"colour is \['red'\], expected text"),
        ({"on": 1}, "on is 1, expected true or false"),
        ({"on": "yes"}, "on is 'yes', expected true or false"),
    ],
)
def test_values_outside_their_limits_are_refused_with_value_and_limit(values, message):
    with pytest.raises(ValueError, match=message):
        Sample(**values)


@pytest.mark.parametrize("values", [{}, {"share": 1.0}, {"count": 1}, {"colour": "blue"}, {"said": ""}])
def test_limits_themselves_are_inside(values):
    Sample(**values)


def test_a_value_is_as_its_field_has_it():
    """1 and 1.0 in two files were two runs: what is compared later must not depend on how a number was written."""
    sample = Sample(output=Path("a") / "b", share=1, sizes=[0, 1], count="none")  # type: ignore[arg-type]
    assert sample == Sample(output="a/b", share=1.0, sizes=(0.0, 1.0), count=None)
    assert type(sample.share) is float and type(sample.output) is str


@pytest.mark.parametrize("value", [1.5, float("inf"), float("nan"), "many"])
def test_what_is_no_whole_number_is_refused_from_a_file(value):
    with pytest.raises(ValueError, match=f"count is {value!r}, expected"):
        build(Sample, {"count": value})


def test_lists_become_tuples_inside_lists_too():
    assert Sample(sizes=[3.0, 4.0]) == Sample(sizes=(3.0, 4.0))  # type: ignore[arg-type]

    @dataclass(frozen=True)
    class Table:
        rows: tuple = ()

        def __post_init__(self) -> None:
            check_options(self)

    assert hash(Table([[1, [2]], 3])) == hash(Table(((1, (2,)), 3)))  # type: ignore[arg-type]


def test_identity_leaves_out_what_may_change():
    assert identity(Sample(output="there", sizes=(9.0,))) == identity(Sample())
    assert identity(Sample(share=0.25)) != identity(Sample())
    assert list(identity(Sample())) == ["share", "count", "colour", "free", "on", "said"]


def test_a_flag_shows_its_limits(capsys):
    with pytest.raises(SystemExit):
        parse(Sample, "", ["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "a part of 100 % (larger than 0, at most 1, default: 0.5)" in shown
    assert "--colour {red,blue} of it (default: red)" in shown
    assert "how many (at least 1, default: None)" in shown


def test_a_wrong_flag_ends_the_program_with_one_message(capsys):
    with pytest.raises(SystemExit):
        parse(Sample, "", ["--share", "nan"])
    assert capsys.readouterr().err.endswith("error: share is nan, it must be a number\n")


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--count=1e9", "count is '1e9', expected int, a whole number"),
        ("--free=inf", "free is inf, it must be a finite number"),
        ("--on=perhaps", "on is 'perhaps', expected true or false"),
        ("--output=", "output is '', it must not be empty"),
        ("--colou", "colour"),
        ("--shre=1", "unrecognized arguments: --shre=1 (did you mean --share?)"),
    ],
)
def test_wrong_words_of_a_command_line_are_named(flag, message, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(Sample, "", [flag])
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_words_of_a_command_line_are_values_of_their_type():
    sample = parse(Sample, "", ["--share", "1", "--count", "none", "--sizes", "1", "2.5", "--on", "--said", "7"])
    assert sample == Sample(share=1.0, sizes=(1.0, 2.5), on=True, said="7")


@pytest.mark.parametrize("text", ["", "# nothing\n", "null", "---\n"])
def test_an_empty_file_leaves_the_defaults(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    assert load(Sample, tmp_path / "c.yaml") == Sample()


def test_numbers_of_a_file_are_read_as_users_write_them(tmp_path):
    """PyYAML alone reads `1e-3` as text, and refused or, worse, took it for a name."""
    (tmp_path / "c.yaml").write_bytes("\ufeffshare: 1e-3\nfree: -2E+2\nsizes: 3\ncount: none\nsaid: 1e-3x\n".encode())
    assert load(Sample, tmp_path / "c.yaml") == Sample(share=1e-3, free=-200.0, sizes=(3.0,), said="1e-3x")


def test_an_alias_and_a_merge_are_read(tmp_path):
    (tmp_path / "c.yaml").write_text("<<: &a {share: 0.25}\nsaid: &b red\ncolour: *b\n")
    assert load(Sample, tmp_path / "c.yaml") == Sample(share=0.25, said="red")


LAUGHS = "a: &a [x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
FILES: list[tuple[Any, str]] = [
    ("share: .nan", "share is nan, it must be a number"),
    ("free: .inf", "free is inf, it must be a finite number"),
    ("sizes: [1, -.inf]", "sizes holds -inf"),
    ("shre: 1", r"unknown option shre: known are output, .*\(did you mean share\?\)"),
    ("1: 2", "unknown option 1: known are"),
    ("output: 2024-01-01", "expected text: put it in quotes"),
    ("output: 2024-99-99", "holds a value that cannot be read: month"),
    ("count: " + "9" * 5000, "holds a value that cannot be read"),
    ("count: 0x" + "f" * 5000, "count is a number of thousands of digits"),
    ("output: {a: b}", "output is {'a': 'b'}, expected text"),
    ("share: 1\nshare: 1", "is no YAML: line 2, column 1: the key share stands twice"),
    ("share: 1\n\tfree: 1", r"is no YAML: line 2, column 1: found character '\\t' .*indent with spaces"),
    ("share: [1", "is no YAML: line 1, column 10: "),
    ("[a]: 1", "is no YAML: line 1, column 1: found unhashable key"),
    ("share: !!python/name:os.system", "is no YAML: line 1, column 8: could not determine a constructor"),
    ("a: 1\n---\nb: 1", "is no YAML: .*another document"),
    ("a: &a [*a]", "is no YAML: aliases make more"),
    (LAUGHS, "is no YAML: aliases make more"),
    ("[" * 3000, "too deep"),
    ("- share", "expected 'key: value' lines, found a list"),
    ("share", "expected 'key: value' lines, found a str"),
    ("a\0b", "is no YAML: special characters are not allowed"),
    (b"\xff\xfe\0", "is no text in UTF-8"),
]


@pytest.mark.parametrize(("content", "message"), FILES, ids=[str(content)[:20] for content, _ in FILES])
def test_a_wrong_file_is_one_line_that_names_it(tmp_path, capsys, content, message):
    """YAML's own errors were tracebacks, of a key that stood twice the last value won, a few aliases took for ever."""
    path = tmp_path / "c.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as raised:
        load(Sample, path)
    assert str(raised.value).startswith(str(path)) and "\n" not in str(raised.value)
    with pytest.raises(SystemExit):
        parse(Sample, "", ["--config", str(path)])
    assert capsys.readouterr().err == f"error: {raised.value}\n"


def test_a_directory_is_no_file_of_options(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a directory: name a file"):
        load(Sample, tmp_path)
    with pytest.raises(FileNotFoundError, match="missing"):
        load(Sample, tmp_path / "missing")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"a": 1}, "missing b"),
        ({"a": 1, "b": None}, "b is None, expected text"),
        ([1], "expected a table of fields, found a list"),
        (None, "expected a table of fields, found a NoneType"),
    ],
)
def test_a_dataclass_is_built_whole_or_not(values, message):
    @dataclass(frozen=True)
    class Pair:
        a: int
        b: str
        c: float = 0.0

    assert build(Pair, {"a": 1, "b": "x"}) == Pair(1, "x")
    with pytest.raises(ValueError, match=message):
        build(Pair, values)


def test_values_of_any_dataclass_are_checked(tmp_path):
    """What comes from JSON has types too: fields without limits are held to theirs."""

    @dataclass(frozen=True)
    class Pair:
        both: tuple[int, int] = (1, 2)
        rest: dict[str, Any] = dataclasses.field(default_factory=dict)

        def __post_init__(self) -> None:
            check_options(self)

    assert Pair([3, 4]).both == (3, 4)  # type: ignore[arg-type]
    for values, message in (
        ({"both": [1, 2, 3]}, "both is .* expected 2 values"),
        ({"both": [1, 2.5]}, "both is 2.5, expected a whole number"),
        ({"rest": []}, r"rest is .* expected dict"),
    ):
        with pytest.raises(ValueError, match=message):
            Pair(**values)  # type: ignore[arg-type]
