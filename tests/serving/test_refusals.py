"""What is refused, with OpenAI's body and the name of the field, and what is taken without effect."""

import httpx
import openai
import pytest

from tests.serving.running import ASKED, MODEL, PROMPT, running, tiny_backend

CHAT = {"messages": ASKED, "max_tokens": 4}


def refusal(served, status: int, body, path: str = "/v1/chat/completions") -> dict:
    response = served.post(body, path)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"} and error["message"]
    return error


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"n": 0}, "n"),
        ({"n": 1000}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"seed": 2**70}, "seed"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a", ""]}, "stop"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"frequency_penalty": -3}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"99999": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"bad_words": [" "]}, "bad_words"),
        ({"stop_token_ids": [99999]}, "stop_token_ids"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"stream": "yes"}, "stream"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "cat", "content": "miaow"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content"),
        ({"continue_final_message": True}, "messages"),
        ({"add_generation_prompt": False}, "add_generation_prompt"),
        ({"chat_template_kwargs": {"chat_template": "x"}}, "chat_template_kwargs"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"audio": {}}, "audio"),
        ({"functions": [{}]}, "functions"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"best_of": 3}, "best_of"),
        ({"temprature": 1}, "temprature"),
        ({"\ud800": 1}, None),
    ],
)
def test_a_wrong_field_is_named(served, fields, param):
    error = refusal(served, 400, {**CHAT, **fields})
    assert error["type"] == "invalid_request_error"
    if param is not None:
        assert (error["param"] or "").startswith(param) and param.partition("[")[0] in error["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [99999]}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"prompt": "\ud800"}, "prompt"),
        ({"prompt": ["fine", "\ud800"]}, "prompt"),
        ({"suffix": "end"}, "suffix"),
        ({"echo": True}, "echo"),
        ({"logprobs": 21}, "logprobs"),
        ({"messages": ASKED}, "messages"),
    ],
)
def test_a_wrong_field_of_plain_text_is_named(served, fields, param):
    error = refusal(served, 400, {"prompt": PROMPT, "max_tokens": 4, **fields}, "/v1/completions")
    assert (error["param"] or "").startswith(param)


def test_a_misspelt_field_is_told_what_it_may_be(served):
    assert "did you mean temperature?" in refusal(served, 400, {**CHAT, "temprature": 1})["message"]


def test_fields_that_change_nothing_are_taken(served):
    fine = {
        "user": "me",
        "metadata": {"a": "b"},
        "store": True,
        "service_tier": "auto",
        "tools": [],
        "tool_choice": "none",
    }
    fine |= {"response_format": {"type": "text"}, "prediction": {"type": "content", "content": "x"}, "top_k": -1}
    fine |= {"stop": None, "n": None, "temperature": None, "logit_bias": None, "stream_options": None, "echo": False}
    assert served.post({**CHAT, **fine}).status_code == 200


def test_another_model_is_not_found(served, client):
    error = refusal(served, 404, {**CHAT, "model": "gpt-4o"})
    assert error["code"] == "model_not_found" and error["param"] == "model" and MODEL in error["message"]
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4o")


def test_what_does_not_fit_the_context_is_told_in_numbers(served):
    error = refusal(served, 400, {"messages": ASKED, "max_tokens": 600})
    assert error["code"] == "context_length_exceeded"
    assert "maximum context length is 512 tokens" in error["message"] and "600 in the answer" in error["message"]
    long = refusal(served, 400, {"prompt": "word " * 200, "max_tokens": 1}, "/v1/completions")
    assert "1001 tokens (1000 in the prompt, 1 in the answer)" in long["message"] and long["param"] == "prompt"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[1]",
        b"null",
        b'"text"',
        b"[" * 100_000,
        b'{"n": NaN}',
        b'{"n": 1' + b"0" * 5000 + b"}",
    ],
)
def test_garbage_is_refused_in_the_same_form(served, content):
    headers = {"Content-Type": "application/json"}
    response = httpx.post(f"{served.url}/v1/chat/completions", content=content, headers=headers, timeout=60)
    assert response.status_code == 400 and response.json()["error"]["message"]


def test_routes_that_are_not_there_say_so_in_the_same_form(served):
    assert httpx.get(f"{served.url}/v1/nothing").json()["error"]["message"]
    wrong = httpx.get(f"{served.url}/v1/chat/completions")
    assert wrong.status_code == 405 and wrong.json()["error"]["type"] == "invalid_request_error"


def test_the_official_client_raises_its_own_errors(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=ASKED, top_p=3)
    assert caught.value.param == "top_p"


def test_a_key_opens_the_door_and_bodies_have_a_limit():
    with running(tiny_backend(), api_key="open sesame", max_body_mb=0.01) as server:
        body = {**CHAT, "model": MODEL}
        assert server.client(api_key="open sesame").chat.completions.create(**body).choices
        for key in ("open", "öpen sesame", "open sesame2"):
            sent = {b"Authorization": f"Bearer {key}".encode()}
            response = httpx.post(f"{server.url}/v1/chat/completions", json=CHAT, headers=sent)
            assert response.status_code == 401 and response.json()["error"]["code"] == "invalid_api_key"
        assert httpx.get(f"{server.url}/v1/models").status_code == 401
        assert httpx.get(f"{server.url}/health").status_code == 200
        right = {"Authorization": "Bearer open sesame"}
        large = {"messages": [{"role": "user", "content": "a" * 20_000}]}
        told = httpx.post(f"{server.url}/v1/chat/completions", json=large, headers=right)
        assert told.status_code == 413 and "10485 bytes" in told.json()["error"]["message"]
        pieces = (b"x" * 4096 for _ in range(4))  # no length is announced
        told = httpx.post(f"{server.url}/v1/chat/completions", content=pieces, headers=right)
        assert told.status_code == 413
