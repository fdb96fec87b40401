"""Token ids of prompts and answers, which training data is made of; this server as a source of it."""

import json
from collections import Counter
from pathlib import Path

import httpx
import pytest

from eagle.data.conversations import read_conversations
from eagle.data.preparation import prepare
from eagle.data.prepare_config import PrepareConfig
from eagle.decode import DecodeOptions, autoregressive
from eagle.endpoint import Endpoint, Wanted
from eagle.prompting import encode_prompt
from eagle.sampling import Sampling
from evaluation.arms import Models, Request, find_arm
from evaluation.eval_config import EvalConfig
from tests import tiny_text
from tests.data.test_preparation import conversation
from tests.tiny import tokens_of

PROMPT = [72, 105, 32, 256, 9]
OTHER = [1, 2, 3]


def ids_alone(served, prompt, max_tokens=12, **sampling) -> list[int]:
    options = DecodeOptions(Sampling(**sampling), max_tokens, seed=5)
    return tokens_of(autoregressive(served.backend.target, prompt, options))


def test_ids_of_prompt_and_answer_are_told_where_they_are_asked_for(served):
    body = {"prompt": [PROMPT, OTHER], "n": 2, "max_tokens": 12, "temperature": 0, "return_token_ids": True}
    choices = served.post(body, "/v1/completions").json()["choices"]
    assert [choice["prompt_token_ids"] for choice in choices] == [PROMPT, PROMPT, OTHER, OTHER]
    for choice in choices:
        assert choice["token_ids"] == ids_alone(served, choice["prompt_token_ids"])
    silent = served.post({**body, "return_token_ids": False}, "/v1/completions").json()["choices"]
    assert all("token_ids" not in choice and "prompt_token_ids" not in choice for choice in silent)
    assert [choice["text"] for choice in silent] == [choice["text"] for choice in choices]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_streamed_ids_add_up_and_the_prompt_is_told_once(served, path):
    asked = {"prompt": PROMPT} if "chat" not in path else {"messages": [{"role": "user", "content": "Hi"}]}
    body = {**asked, "max_tokens": 12, "seed": 5, "return_token_ids": True}
    whole = served.post(body, path).json()["choices"][0]
    streamed = httpx.post(served.url + path, json={**body, "stream": True}, timeout=60).text
    events = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
    parts = [choice for event in events for choice in event["choices"]]
    assert [token for part in parts for token in part.get("token_ids", ())] == whole["token_ids"]
    assert [part["prompt_token_ids"] for part in parts if "prompt_token_ids" in part] == [whole["prompt_token_ids"]]


def test_this_server_is_a_source_of_training_data(served, tmp_path):
    """At temperature 0 the rows are those of the batched loop, which drafts nothing."""
    prompts = tmp_path / "prompts.jsonl"
    rows = [conversation(f"c{i}", f"Question {i}", "A", "And then?", "B") for i in range(4)]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = []
    for url in (None, served.url):
        config = PrepareConfig(
            output=str(tmp_path / str(url is None)),
            prompts=str(prompts),
            endpoint=url,
            greedy_share=1.0,
            max_new_tokens=16,
            max_length=300,
            num_lanes=2,
            group_size=1,
            overlap_filter=False,
        )
        ends = served.backend.target.end_token_ids
        skipped = prepare(config, None if url else tiny_text.target(), tiny_text.tokenizer(), ends)
        assert not skipped
        found = read_conversations(Path(config.output), 300, tiny_text.VOCAB_SIZE, Counter())
        made.append({row.id: row for row in found})
    assert made[0] == made[1] and len(made[0]) >= 4


def test_the_probe_is_read_as_the_tokenizer_reads_it(served):
    endpoint = Endpoint(served.url)
    assert endpoint.model == "tiny"
    endpoint.check_tokenizer(lambda text: encode_prompt(served.backend.tokenizer, text))
    with pytest.raises(ValueError, match="serves tiny with another tokenizer"):
        endpoint.check_tokenizer(lambda text: [1, 2])


def test_what_the_server_accepts_is_measured_from_its_stream(served):
    models = Models(served.backend.target, endpoint=Endpoint(served.url))
    request = Request(PROMPT, 0.0, 12, 0)
    config = EvalConfig(arms=("served",))
    answer = find_arm("served", config)(models, config, request)
    assert list(answer.tokens) == ids_alone(served, PROMPT)
    completion = Endpoint(served.url).complete(PROMPT, Wanted(12, 0.0, 0))
    assert completion.num_accepted == sum(answer.accepted)
