"""Training data from a server: the same rows as from the batched loop, whatever goes wrong on the way."""

import json
import re
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eagle import endpoint
from eagle.data.conversations import TokenRow, read_conversations
from eagle.data.preparation import prepare
from eagle.data.prepare_config import PrepareConfig
from eagle.endpoint import Endpoint, Wanted
from tests import tiny_text
from tests.completions_server import serving
from tests.data.test_preparation import conversation

END = frozenset([257, *range(150, 256)])  # a random model says so much of it that answers end


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(endpoint, "FIRST_WAIT", 0.001)


@pytest.fixture
def config(tmp_path) -> PrepareConfig:
    return of_three_turns(tmp_path, num_lanes=3, group_size=1)  # greedy: draws of a server are its own


def of_three_turns(tmp_path: Path, **more: Any) -> PrepareConfig:
    path = tmp_path / "prompts.jsonl"
    rows = [conversation(f"c{i}", f"Question {i}", "A", "And then?", "B", "Why?", "C") for i in range(8)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return PrepareConfig(
        output=str(tmp_path / "rows"),
        prompts=str(path),
        greedy_share=1.0,
        max_prompt_tokens=120,
        max_new_tokens=24,
        max_length=300,
        overlap_filter=False,
        **more,
    )


def run(config: PrepareConfig, url: str | None) -> tuple[dict[str, TokenRow], Counter]:
    config = replace(config, endpoint=url)
    skipped = prepare(config, None if url else tiny_text.target(), tiny_text.tokenizer(), END)
    return rows_of(config), skipped


def rows_of(config: PrepareConfig) -> dict[str, TokenRow]:
    found = list(read_conversations(Path(config.output), config.max_length, tiny_text.VOCAB_SIZE, Counter()))
    assert len({row.id for row in found}) == len(found), "a row was repeated"
    return {row.id: row for row in found}


def test_rows_are_those_of_the_own_loop(config, tmp_path):
    own, _ = run(replace(config, output=str(tmp_path / "own")), None)
    with serving() as server:
        server.stop_ids = END
        served, skipped = run(config, server.url)
    assert served == own and not skipped
    assert any(name.endswith("/turn-3") for name in served), "no conversation has several turns"
    assert 1 < server.most_running <= 3


def test_a_servers_own_defaults_are_switched_off(config):
    """A server applies its model's generation_config to what a request leaves open: the law would be another one."""
    with serving() as server:
        run(replace(config, greedy_share=0.0, temperature=0.7), server.url)
    for body in server.bodies[1:]:
        assert body["temperature"] == 0.7 and 0 <= body["seed"] < 2**63
        assert endpoint.UNCHANGED.items() <= body.items()
    assert len({body["seed"] for body in server.bodies}) > 8


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(config, tmp_path, status):
    own, _ = run(replace(config, output=str(tmp_path / "own")), None)
    with serving(lambda number, body: (status, {"error": "later"}) if number % 3 == 0 else None) as server:
        served, skipped = run(config, server.url)
    assert served == own and not skipped


def test_a_server_that_goes_away_loses_nothing(config, tmp_path, monkeypatch):
    own, _ = run(replace(config, output=str(tmp_path / "own")), None)
    monkeypatch.setattr(endpoint, "TRIES", 2)
    with (
        serving(lambda number, body: (503, {"error": {"message": "gone"}}) if number > 20 else None) as server,
        pytest.raises(OSError, match=r"cannot be reached \(status 503: gone\): is the server running"),
    ):
        run(config, server.url)
    before = rows_of(config)
    assert len(before) < len(own)  # how many were finished by then is up to the threads
    with serving() as server:
        served, _ = run(config, server.url)
    assert served == own
    asked = {tuple(body["prompt"]) for body in server.bodies[1:]}
    assert not any(row.input_ids[: row.assistant_spans[0][0]] in asked for row in before.values()), "asked again"


def test_what_the_server_refuses_is_counted(config):
    def refuse(number, body):
        refused = not isinstance(body["prompt"], str) and "Question 3" in tiny_text.tokenizer().decode(body["prompt"])
        return (400, {"error": {"message": "I would rather not"}}) if refused else None

    with serving(refuse) as server:
        served, skipped = run(config, server.url)
    assert {row.conversation for row in served.values()} == {f"c{i}" for i in range(8) if i != 3}
    assert skipped == {f"{server.url.removesuffix('/v1')} refuses with status 400: I would rather not": 1}


def test_a_server_with_another_tokenizer_is_refused_before_anything_is_asked(config):
    def other(number, body):
        return 200, {"choices": [{"token_ids": [1], "prompt_token_ids": [1, 2, 3], "finish_reason": "length"}]}

    with serving(other) as server, pytest.raises(ValueError, match="another tokenizer: a probe has 3 tokens there and"):
        run(config, server.url)
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"<html>", "something else than JSON"),
        ({"choices": []}, "without choices"),
        ({"choices": [{"finish_reason": "stop", "text": "Hi"}]}, "it must know return_token_ids"),
    ],
)
def test_what_is_no_such_server_is_told(config, answer, told):
    with serving(lambda number, body: (200, answer)) as server, pytest.raises(ValueError, match=told):
        run(config, server.url)


def test_a_model_is_chosen_by_name_where_there_are_several():
    with serving() as server:
        server.models = ["small", "large"]
        with pytest.raises(ValueError, match="names no model: choose one of small, large"):
            Endpoint(server.url)
        with pytest.raises(ValueError, match="has no model 'huge': choose one of small, large"):
            Endpoint(server.url, "huge")
        assert Endpoint(server.url.removesuffix("/v1"), "large").complete([65], Wanted(1, 0.0, 0)).prompt_ids == (65,)
        assert server.bodies[0]["model"] == "large"


def test_an_address_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"endpoint is '127\.0\.0\.1:8000', it must begin with http"):
        Endpoint("127.0.0.1:8000")
    with serving() as server:
        url = server.url
    with pytest.raises(OSError, match=re.escape(url.removesuffix("/v1")) + " cannot be reached"):
        Endpoint(url, tries=2)


def test_stopping_early_waits_for_no_answer(config):
    """Ctrl-C, or enough answer tokens: requests under way are left alone."""
    stop = threading.Event()

    def hang(number, body):
        if number > 14:
            stop.wait(30)

    with serving(hang) as server:
        rows, _ = run(replace(config, max_answer_tokens=1, num_lanes=2), server.url)
        stop.set()
    assert rows


def test_an_endpoint_and_original_answers_exclude_each_other():
    with pytest.raises(ValueError, match="answers is 'original' and an endpoint is given"):
        PrepareConfig(answers="original", endpoint="http://127.0.0.1:1")
