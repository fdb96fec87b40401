"""Options: limits are declared once, checked at construction, shown by the flag; nan is no number."""

from dataclasses import dataclass

import pytest

from eagle.options import build, check_options, identity, option, parse


@dataclass(frozen=True)
class Sample:
    """One option of every kind."""

    output: str = option("here", "directory", may_change=True)
    share: float = option(0.5, "a part of 100 %", above=0, at_most=1)
    count: int | None = option(None, "how many", at_least=1)
    colour: str = option("red", "of it", choices=("red", "blue"))
    sizes: tuple[float, ...] = option((1.0, 2.0), "of them", may_change=True, at_least=0, each_once=True)
    free: float = option(0.0, "anything")

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
    ],
)
def test_values_outside_their_limits_are_refused_with_value_and_limit(values, message):
    with pytest.raises(ValueError, match=message):
        Sample(**values)


@pytest.mark.parametrize("values", [{}, {"share": 1.0}, {"count": 1}, {"colour": "blue"}, {"free": float("inf")}])
def test_limits_themselves_are_inside(values):
    Sample(**values)


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
    assert list(identity(Sample())) == ["share", "count", "colour", "free"]


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
