"""The documentation keeps its word: links lead somewhere, commands exist, nothing is left to be filled in."""

import re
import shlex
import tomllib
from collections.abc import Iterator, Sequence
from importlib import import_module
from itertools import takewhile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOG = ROOT / "docs" / "log"  # history, with the command names of its day
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("hsd_verify/README.md"))]
CARDS = sorted((ROOT / "eagle" / "heads").glob("*/README.md"))
PRESENT = [page for page in PAGES + CARDS if LOG not in page.parents]
TARGET = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?```|`[^`\n]+`", re.S)
PROGRAM = "eagle-hsd"
GROUPS = {"trees", "bench", "hierarchy"}  # commands that hold commands
ENDS = {"&&", "||", "|", "&", ";", ">"}  # of a call in a shell's line
FILE = re.compile(r"(?:configs|scripts|eagle|evaluation|hsd_verify|tests)/[\w/.-]+\.(?:py|sh|yaml)")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """File and anchor of every link and image that is not an address of the web. Code holds none."""
    for target in TARGET.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            yield (page.parent / path).resolve() if path else page, anchor


def anchors(page: Path) -> set[str]:
    """What headings are called in links: lower case, without punctuation, with hyphens for spaces."""
    headings = re.findall(r"^#+ (.+)$", CODE.sub(_plain, page.read_text(encoding="utf-8")), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def _plain(code: re.Match[str]) -> str:
    """A code span without its marks; a block of code holds no heading."""
    return "" if code[0].startswith("```") else code[0].strip("`")


def known_commands() -> dict[str, str]:
    """Names and "module:function" of the commands."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return dict(project["entry-points"]["eagle_hsd.commands"])


def calls_in(text: str) -> Iterator[list[str]]:
    """The words behind `eagle-hsd` wherever code calls it; placeholders in capitals and `--help` call nothing."""
    for span in CODE.findall(text):
        for line in span.strip("`").replace("\\\n", " ").splitlines():
            words = _words(line)
            for start in (place for place, word in enumerate(words) if Path(word).name == PROGRAM):
                call = list(takewhile(lambda word: word not in ENDS, words[start + 1 :]))
                if call and call[0][0].islower():
                    yield call


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError:  # a quotation that goes on in the next line
        return line.split()


def commands_in(page: Path) -> set[str]:
    return {call[0] for call in calls_in(page.read_text(encoding="utf-8"))}


def help_of(call: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What the called command says of its flags, in this process."""
    module, _, function = known_commands()[call[0]].partition(":")
    name = list(takewhile(lambda word: re.fullmatch("[a-z]+", word), call[1:2])) if call[0] in GROUPS else []
    with pytest.raises(SystemExit):
        getattr(import_module(module), function)([*name, "--help"])
    return capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES + CARDS, ids=name_of)
def test_links_and_images_lead_to_files_and_headings(page):
    for path, anchor in links(page):
        assert path.exists(), f"{page.name} links to {path}, which is not there"
        assert not anchor or anchor in anchors(path), f"{page.name}: {path.name} has no heading #{anchor}"


@pytest.mark.parametrize("page", PRESENT, ids=name_of)
def test_nothing_is_left_to_be_filled_in(page):
    assert re.findall(r"@@\w+@@", page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("page", PRESENT, ids=name_of)
def test_commands_exist(page):
    assert commands_in(page) <= known_commands().keys()


@pytest.mark.parametrize("page", PRESENT, ids=name_of)
def test_flags_exist(page, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", [PROGRAM])
    for call in calls_in(page.read_text(encoding="utf-8")):
        flags = {word.partition("=")[0] for word in call if word.startswith("--") and word != "--help"}
        if flags:
            unknown = flags - set(re.findall(r"--[a-z][\w-]*", help_of(call, capsys)))
            assert not unknown, f"eagle-hsd {' '.join(call)}"


def test_every_command_is_explained():
    assert commands_in(ROOT / "docs" / "quickstart.md") == known_commands().keys()


@pytest.mark.parametrize("page", PRESENT, ids=name_of)
def test_named_files_are_there(page):
    missing = {name for name in FILE.findall(page.read_text(encoding="utf-8")) if not (ROOT / name).exists()}
    assert not missing


@pytest.mark.parametrize("page", PRESENT, ids=name_of)
def test_lines_stay_readable(page):
    """Rows of a table cannot be wrapped, all else can."""
    lines = page.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > 120 and not line.startswith("|")] == []
