"""Answers over a real socket, by the official client: whole as streamed, as a session alone, the same for a seed."""

import json
from dataclasses import replace
from typing import Any

import httpx
import pytest

from eagle.decode import DecodeOptions
from eagle.prompting import encode_prompt, render_prompt
from eagle.sampling import Sampling
from tests.serving.running import ASKED, BLOCK, MODEL, PROMPT, alone

CHAT = {"model": MODEL, "messages": ASKED, "max_tokens": 24, "seed": 7}
TEXT = {"model": MODEL, "prompt": PROMPT, "max_tokens": 24, "seed": 7}


def prompt_ids(backend, messages=ASKED) -> list[int]:
    return encode_prompt(backend.tokenizer, render_prompt(backend.tokenizer, messages))


def whole_blocks(num_tokens: int) -> int:
    """Tokens of a prompt in whole blocks; its last one is read again."""
    return (num_tokens - 1) // BLOCK * BLOCK


def streamed(chunks) -> dict[int, str]:
    texts: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk.choices:
            piece = choice.delta.content if hasattr(choice, "delta") else choice.text
            texts[choice.index] = texts.get(choice.index, "") + (piece or "")
    return texts


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_chat_answers_as_a_session_alone(served, client, temperature):
    answer = client.chat.completions.create(**CHAT, temperature=temperature)
    options = DecodeOptions(Sampling(temperature), 24, seed=7)
    assert answer.choices[0].message.content == alone(served.backend, prompt_ids(served.backend), options)
    assert answer.choices[0].message.role == "assistant" and answer.object == "chat.completion"
    assert answer.model == MODEL and answer.id.startswith("chatcmpl-") and answer.system_fingerprint.startswith("fp_")


def test_text_is_continued_as_a_session_alone_does(served, client):
    answer = client.completions.create(**TEXT)
    ids = served.backend.tokenizer(PROMPT)["input_ids"]
    assert answer.choices[0].text == alone(served.backend, ids, DecodeOptions(Sampling(1), 24, seed=7))
    assert answer.object == "text_completion" and answer.id.startswith("cmpl-")


@pytest.mark.parametrize("n", [1, 3])
def test_a_stream_adds_up_to_the_whole_answer(client, n):
    whole = client.chat.completions.create(**CHAT, n=n)
    chunks = list(client.chat.completions.create(**CHAT, n=n, stream=True))
    assert streamed(chunks) == {choice.index: choice.message.content for choice in whole.choices}
    ends = {choice.index: choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason}
    assert ends == {choice.index: choice.finish_reason for choice in whole.choices}
    assert len({chunk.id for chunk in chunks}) == 1 and all(chunk.usage is None for chunk in chunks)


def test_a_streamed_text_adds_up_too(client):
    whole = client.completions.create(**TEXT, n=2)
    chunks = client.completions.create(**TEXT, n=2, stream=True)
    assert streamed(chunks) == {choice.index: choice.text for choice in whole.choices}


def test_a_stream_is_server_sent_events_up_to_done(served):
    body = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
    response = httpx.post(f"{served.url}/v1/chat/completions", json=body, timeout=60)
    assert response.headers["content-type"].startswith("text/event-stream")
    *events, done, rest = response.text.split("\n\n")
    assert done == "data: [DONE]" and not rest
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] == 24
    assert all(chunk["usage"] is None and chunk["object"] == "chat.completion.chunk" for chunk in chunks[:-1])


def test_the_usage_counts_drafts_and_what_was_read_before(served, client):
    messages = [{"role": "user", "content": "a question that nobody else asks"}]
    first = client.chat.completions.create(**{**CHAT, "messages": messages}).usage
    again = client.chat.completions.create(**{**CHAT, "messages": messages, "n": 2}).usage
    assert first.prompt_tokens == again.prompt_tokens == len(prompt_ids(served.backend, messages))
    assert first.completion_tokens == 24 and first.total_tokens == first.prompt_tokens + 24
    assert again.completion_tokens == 48, "all answers, the prompt once"
    details = first.completion_tokens_details
    assert details.accepted_prediction_tokens >= 0 and details.rejected_prediction_tokens > 0
    assert first.prompt_tokens_details.cached_tokens < first.prompt_tokens - 1
    assert again.prompt_tokens_details.cached_tokens == whole_blocks(first.prompt_tokens)


def test_the_next_turn_of_a_conversation_reads_only_what_is_new(client):
    messages = [{"role": "user", "content": "count the stars for me"}]
    first = client.chat.completions.create(**{**CHAT, "messages": messages, "temperature": 0})
    said = first.choices[0].message.content
    messages += [{"role": "assistant", "content": said}, {"role": "user", "content": "and again"}]
    second = client.chat.completions.create(**{**CHAT, "messages": messages})
    assert second.usage.prompt_tokens_details.cached_tokens >= whole_blocks(first.usage.prompt_tokens)


def test_the_same_seed_gives_the_same_text_and_another_one_another(client):
    texts = [client.chat.completions.create(**{**CHAT, "seed": seed}).choices[0].message.content for seed in (7, 7, 8)]
    assert texts[0] == texts[1] != texts[2]
    answers = client.chat.completions.create(**CHAT, n=3).choices
    assert answers[0].message.content == texts[0], "the first of several is the one that comes alone"
    assert len({answer.message.content for answer in answers}) == 3


def test_without_a_seed_every_answer_is_another(client):
    asked = {name: value for name, value in CHAT.items() if name != "seed"}
    assert len({client.chat.completions.create(**asked).choices[0].message.content for _ in range(3)}) == 3


def test_several_prompts_are_answered_in_order(served, client):
    prompts = ["one", "two and more"]
    answer = client.completions.create(**{**TEXT, "prompt": prompts, "n": 2, "temperature": 0})
    texts = [choice.text for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert texts[0] == texts[1] and texts[2] == texts[3]
    lone = [client.completions.create(**{**TEXT, "prompt": one, "temperature": 0}).choices[0].text for one in prompts]
    assert texts[::2] == lone
    ids = [served.backend.tokenizer(prompt)["input_ids"] for prompt in prompts]
    by_ids = client.completions.create(**{**TEXT, "prompt": ids, "temperature": 0})
    assert [choice.text for choice in by_ids.choices] == lone


def test_an_answer_ends_before_its_stop_string(client):
    whole = client.completions.create(**TEXT).choices[0].text
    pairs = (whole[place : place + 2] for place in range(6, len(whole)))
    stop = next(pair for pair in pairs if pair.isascii() and pair.isprintable())
    cut = client.completions.create(**TEXT, stop=["never in it", stop])
    assert cut.choices[0].text == whole[: whole.index(stop)] and cut.choices[0].finish_reason == "stop"
    assert streamed(client.completions.create(**TEXT, stop=stop, stream=True)) == {0: cut.choices[0].text}
    assert client.completions.create(**TEXT).choices[0].finish_reason == "length"


def test_bias_penalties_and_cuts_reach_the_law(served, client):
    ids, options = prompt_ids(served.backend), DecodeOptions(Sampling(1), 24, seed=7)
    told: dict[str, Any] = {"min_p": 0.05, "top_k": 40, "repetition_penalty": 1.3}
    told |= {"top_p": 0.9, "presence_penalty": 0.5, "frequency_penalty": 0.7, "temperature": 0.8}
    sampling = Sampling(logit_bias={65: 3.0, 66: -100.0}, **told)
    names = ("min_p", "top_k", "repetition_penalty")
    fields = {name: value for name, value in told.items() if name not in names}
    extra = {name: told[name] for name in names}
    answer = client.chat.completions.create(**CHAT, **fields, logit_bias={"65": 3, "66": -100}, extra_body=extra)
    assert answer.choices[0].message.content == alone(served.backend, ids, replace(options, sampling=sampling))
    forced = client.chat.completions.create(**CHAT, logit_bias={"65": 100}, temperature=0)
    assert set(forced.choices[0].message.content) == {served.backend.tokenizer.decode([65])}


def test_log_probabilities_of_a_chat(client):
    answer = client.chat.completions.create(**CHAT, logprobs=True, top_logprobs=3)
    content = answer.choices[0].logprobs.content
    assert len(content) == answer.usage.completion_tokens
    text = b"".join(bytes(one.bytes) for one in content if not one.token.startswith("<|")).decode(errors="replace")
    assert text == answer.choices[0].message.content
    for one in content:
        best = [top.logprob for top in one.top_logprobs]
        assert len(best) == 3 and best == sorted(best, reverse=True) and one.logprob <= best[0]
    chunks = list(client.chat.completions.create(**CHAT, logprobs=True, top_logprobs=3, stream=True))
    told = [one for chunk in chunks for choice in chunk.choices if choice.logprobs for one in choice.logprobs.content]
    assert told == content
    assert client.chat.completions.create(**CHAT).choices[0].logprobs is None


def test_log_probabilities_of_text(client):
    answer = client.completions.create(**TEXT, logprobs=2).choices[0].logprobs
    assert len(answer.tokens) == len(answer.token_logprobs) == len(answer.top_logprobs) == 24
    assert answer.text_offset[0] == 0 and answer.text_offset[1] == len(answer.tokens[0])
    chunks = client.completions.create(**TEXT, logprobs=2, stream=True)
    told = [choice.logprobs for chunk in chunks for choice in chunk.choices if choice.logprobs]
    assert [token for one in told for token in one.tokens] == answer.tokens
    assert [offset for one in told for offset in one.text_offset] == answer.text_offset


def test_an_answer_that_was_begun_goes_on(served, client):
    messages = [*ASKED, {"role": "assistant", "content": "Because"}]
    answer = client.chat.completions.create(
        **{**CHAT, "messages": messages, "temperature": 0}, extra_body={"continue_final_message": True}
    )
    text = render_prompt(served.backend.tokenizer, messages, continued=True)
    ids = encode_prompt(served.backend.tokenizer, text)
    assert answer.choices[0].message.content == alone(served.backend, ids, DecodeOptions(Sampling(), 24))


def test_text_in_parts_and_the_developers_role_are_read(client):
    parts = [{"type": "text", "text": "Why is "}, {"type": "text", "text": "the sky blue?"}]
    whole = [{"role": "system", "content": "Be brief."}, *ASKED]
    split = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}]
    answers = [client.chat.completions.create(**{**CHAT, "messages": said}) for said in (whole, split)]
    assert answers[0].choices[0].message.content == answers[1].choices[0].message.content


def test_an_answer_may_take_the_whole_context(served, client):
    long = [{"role": "user", "content": "a" * 400}]
    answer = client.chat.completions.create(messages=long, model=MODEL, seed=1, extra_body={"ignore_eos": True})
    limit = served.backend.context_limit
    assert answer.usage.total_tokens == limit and answer.choices[0].finish_reason == "length"


def test_the_models_are_listed(client):
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "eagle-hsd"
