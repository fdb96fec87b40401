"""Metrics under the names that dashboards of vLLM ask for, and values that add up."""

import httpx
import pytest

from eagle.serving.gauges import COUNTERS, GAUGES, HISTOGRAMS, LABELLED
from tests.serving.running import ASKED, MODEL, Running, running, tiny_backend

LABELS = f'{{engine="0",model_name="{MODEL}"}}'


def value(server: Running, name: str) -> float:
    return server.metric(f"{name}{LABELS}")


def test_every_metric_is_there_from_the_start(served):
    text = httpx.get(f"{served.url}/metrics").text
    shown = {line.split("{")[0] for line in text.splitlines() if not line.startswith("#")}
    assert set(GAUGES) | {f"{name}_total" for name in COUNTERS} <= shown
    for name in (*GAUGES, *COUNTERS, *LABELLED, *HISTOGRAMS):
        assert f"# TYPE {name}" in text
    for name in ("drafts", "draft_tokens", "accepted_tokens"):
        assert f"vllm:spec_decode_num_{name}_total{LABELS}" in text


def test_metrics_agree_with_what_clients_are_told():
    with running(tiny_backend()) as server:
        answer = server.client().chat.completions.create(model=MODEL, messages=ASKED, max_tokens=30, n=2, seed=1)
        assert server.is_idle()
        usage, details = answer.usage, answer.usage.completion_tokens_details
        assert value(server, "vllm:prompt_tokens_total") == usage.prompt_tokens
        assert value(server, "vllm:generation_tokens_total") == usage.completion_tokens
        accepted = value(server, "vllm:spec_decode_num_accepted_tokens_total")
        drafted = value(server, "vllm:spec_decode_num_draft_tokens_total")
        assert accepted == details.accepted_prediction_tokens
        assert drafted == accepted + details.rejected_prediction_tokens
        rounds = value(server, "vllm:spec_decode_num_drafts_total")
        depth = f'vllm:spec_decode_num_accepted_tokens_per_pos_total{{engine="0",model_name="{MODEL}",position="0"'
        assert 0 < server.metric(depth) <= rounds
        for name in ("vllm:time_to_first_token_seconds", "vllm:e2e_request_latency_seconds"):
            assert value(server, f"{name}_count") == 1 and value(server, f"{name}_sum") > 0
        assert value(server, "vllm:request_params_n_sum") == 2
        ended = [choice.finish_reason for choice in answer.choices]
        for reason in set(ended):
            name = f'vllm:request_success_total{{engine="0",finished_reason="{reason}"'
            assert server.metric(name) == ended.count(reason)


@pytest.mark.parametrize("path", ["/health", "/version"])
def test_the_server_says_that_it_is_there(served, path):
    assert httpx.get(served.url + path).status_code == 200


def test_a_server_whose_thread_has_ended_is_not_healthy():
    with running(tiny_backend()) as server:
        server.worker.stop()
        assert httpx.get(f"{server.url}/health").status_code == 503
        assert server.post({"messages": ASKED}).status_code == 503
