"""The arm of a running server: counted as the others are, and the server's mistakes told."""

from dataclasses import replace

import pytest

from eagle.endpoint import Endpoint, Wanted
from eagle.engine.target import Target
from evaluation.arms import Models, Request, find_arm
from evaluation.eval_config import EvalConfig
from evaluation.evaluate import describe_models, load_models, run_identity
from tests import tiny_text
from tests.completions_server import serving

CONFIG = EvalConfig(arms=("served",))
REQUEST = Request([256, 72, 105, 257], 0.0, 12, 0)


def test_a_server_of_the_target_gives_the_plain_answer_and_is_counted():
    with serving() as server:
        models = Models(server.target, endpoint=Endpoint(server.url))
        served = find_arm("served", CONFIG)(models, CONFIG, REQUEST)
    plain = find_arm("autoregressive", CONFIG)(models, CONFIG, REQUEST)
    assert served.tokens == plain.tokens and served.finish == plain.finish
    assert (served.num_first, served.emitted, served.accepted) == (1, plain.emitted, plain.accepted)
    served.check(server.target.end_token_ids, REQUEST.max_new_tokens)
    assert served.seconds.prefill > 0 and served.seconds.decode > 0


def test_events_of_several_tokens_are_rounds():
    event = b'data: {"choices": [{"token_ids": [5, 6, 7], "text": "x"}]}\n\n'
    with serving(lambda number, body: (200, event * 3 + b"data: [DONE]\n\n")) as server:
        models = Models(server.target, endpoint=Endpoint(server.url))
        served = find_arm("served", CONFIG)(models, CONFIG, replace(REQUEST, max_new_tokens=8))
    assert (served.num_first, served.emitted, served.accepted) == (3, (3, 2), (2, 1))


@pytest.mark.parametrize(
    ("answer", "error", "told"),
    [
        ((400, {"error": {"message": "no"}}), ValueError, "refuses with status 400: no"),
        (
            (200, b'data: {"choices": [{"text": "Hi"}]}\n\n'),
            ValueError,
            "streams no token ids: it must know",
        ),
        ((200, b"data: <html>\n\n"), ValueError, "streams something else than completions"),
        ((200, b"data: [DONE]\n\n"), ValueError, "an answer without tokens"),
    ],
)
def test_what_a_server_does_wrong_is_told(answer, error, told):
    with serving(lambda number, body: answer) as server, pytest.raises(error, match=told):
        models = Models(server.target, endpoint=Endpoint(server.url))
        find_arm("served", CONFIG)(models, CONFIG, REQUEST)


def test_a_stream_that_breaks_is_an_error():
    with serving() as server:
        endpoint = Endpoint(server.url)
    with pytest.raises(OSError, match="broke off"):
        list(endpoint.stream([1], Wanted(1, 0.0, 0)))


def test_without_an_address_the_arm_is_refused():
    with pytest.raises(ValueError, match="arm 'served' needs a running server of the target: pass --endpoint"):
        load_models(CONFIG)


def test_no_weights_are_read_where_only_the_server_answers(tmp_path):
    tiny_text.target().save_pretrained(tmp_path)
    tiny_text.tokenizer().save_pretrained(tmp_path)
    with serving() as server:
        config = replace(CONFIG, target=str(tmp_path), endpoint=server.url)
        models = load_models(config)
    assert models.target.device.type == "meta"
    assert models.target.end_token_ids == Target(tiny_text.target(), tiny_text.tokenizer()).end_token_ids
    assert describe_models(models)["device"] == "a server's"
    assert run_identity(config, models)["served model"] == "tiny"
