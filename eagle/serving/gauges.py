"""Prometheus metrics, under the names that dashboards of vLLM ask for; what vLLM has no name for is `eagle_hsd:`.

With trees `num_draft_tokens` counts nodes, several of them at one depth, so that accepted over drafted is smaller than
a chain's; accepted over drafts (`num_drafts`, rounds with a tree) is tau, and `position` is the depth below the root.
"""

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from eagle.decode import Step
from eagle.serving.events import Cancelled, Ended, Event
from eagle.serving.work import Job, num_drafted

LABELS = ("model_name", "engine")
SHORT_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
LONG_S = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)
GAUGES = {
    "vllm:num_requests_running": "Requests that are decoded",
    "vllm:num_requests_waiting": "Requests that wait",
    "vllm:kv_cache_usage_perc": "Tokens that idle sessions keep, of those that all sessions have room for (0 to 1)",
    "eagle_hsd:sessions": "Texts kept in memory, those being decoded included",
}
COUNTERS = {
    "vllm:prompt_tokens": "Tokens of prompts",
    "vllm:generation_tokens": "Tokens of answers",
    "vllm:prefix_cache_queries": "Tokens of prompts that were looked for in what sessions have read",
    "vllm:prefix_cache_hits": "Those of them that had been read",
    "vllm:spec_decode_num_drafts": "Rounds with a draft tree",
    "vllm:spec_decode_num_draft_tokens": "Nodes of draft trees",
    "vllm:spec_decode_num_accepted_tokens": "Drafted tokens that were emitted",
}
LABELLED = {
    "vllm:spec_decode_num_accepted_tokens_per_pos": ("Drafted tokens that were emitted, by depth", "position"),
    "vllm:request_success": ("Requests that ended, each answer counted", "finished_reason"),
    "eagle_hsd:requests_refused": ("Requests that got an error, by its code or status", "reason"),
}
HISTOGRAMS = {
    "vllm:time_to_first_token_seconds": ("From the request to its first token", SHORT_S),
    "vllm:inter_token_latency_seconds": ("Between rounds of an answer", SHORT_S),
    "vllm:request_time_per_output_token_seconds": ("Of an answer behind its first token, a token", SHORT_S),
    "vllm:e2e_request_latency_seconds": ("From the request to its end", LONG_S),
    "vllm:request_queue_time_seconds": ("Before a request is decoded", LONG_S),
    "vllm:request_inference_time_seconds": ("While it is decoded", LONG_S),
    "vllm:request_prefill_time_seconds": ("Of that, until the first token", LONG_S),
    "vllm:request_decode_time_seconds": ("Of that, behind the first token", LONG_S),
    "vllm:request_prompt_tokens": ("Tokens of a request's prompts", TOKENS),
    "vllm:request_generation_tokens": ("Tokens of a request's answers", TOKENS),
    "vllm:request_params_max_tokens": ("max_tokens of requests", TOKENS),
    "vllm:request_params_n": ("n of requests", (1, 2, 5, 10, 20)),
}


class Gauges:
    """The metrics of one server. Any thread may call."""

    def __init__(self, model: str):
        self.registry = CollectorRegistry()
        registry = self.registry
        self._values = (model, "0")
        self._gauges = {
            name: Gauge(name, told, LABELS, registry=registry).labels(*self._values) for name, told in GAUGES.items()
        }
        self._counters = {name: Counter(name, told, LABELS, registry=registry) for name, told in COUNTERS.items()}
        self._labelled = {
            name: Counter(name, told, (*LABELS, label), registry=registry) for name, (told, label) in LABELLED.items()
        }
        self._histograms = {
            name: Histogram(name, told, LABELS, buckets=edges, registry=registry)
            for name, (told, edges) in HISTOGRAMS.items()
        }
        for counter in self._counters.values():
            counter.labels(*self._values)  # shown from the start, as 0
        for reason in ("stop", "length", "abort", "error"):
            self._by("vllm:request_success", reason, 0)

    def text(self) -> bytes:
        """What a scrape gets."""
        return generate_latest(self.registry)

    def show(self, running: int, waiting: int, sessions: int, kept: float) -> None:
        for name, value in zip(GAUGES, (running, waiting, kept, sessions), strict=True):
            self._gauges[name].set(value)

    def refused(self, reason: str) -> None:
        self._by("eagle_hsd:requests_refused", reason)

    def watch(self, job: Job, step: Step, num_tokens: int) -> None:
        """A step of an answer, `num_tokens` of it emitted."""
        now_s = time.perf_counter()
        if job.first_s is None:
            job.first_s = now_s
            self._time("vllm:time_to_first_token_seconds", now_s - job.arrived_s)
        elif step.round is not None:
            self._time("vllm:inter_token_latency_seconds", now_s - job.step_s)
        job.step_s = now_s
        self._count("vllm:generation_tokens", num_tokens)
        if drafted := num_drafted(step):
            accepted = min(step.num_accepted, num_tokens)
            self._count("vllm:spec_decode_num_drafts", 1)
            self._count("vllm:spec_decode_num_draft_tokens", drafted)
            self._count("vllm:spec_decode_num_accepted_tokens", accepted)
            for depth in range(accepted):
                self._by("vllm:spec_decode_num_accepted_tokens_per_pos", str(depth))

    def read(self, num_prompt: int, num_cached: int) -> None:
        """A prompt."""
        self._count("vllm:prompt_tokens", num_prompt)
        self._count("vllm:prefix_cache_queries", num_prompt)
        self._count("vllm:prefix_cache_hits", num_cached)

    def ended(self, job: Job, event: Event) -> None:
        now_s, usage = time.perf_counter(), job.usage
        for reason in job.finishes:
            self._by("vllm:request_success", "length" if reason == "context" else reason)
        if not isinstance(event, Ended):
            self._by("vllm:request_success", "abort" if isinstance(event, Cancelled) else "error")
            return
        started_s, first_s = job.started_s or now_s, job.first_s or now_s
        self._time("vllm:e2e_request_latency_seconds", now_s - job.arrived_s)
        self._time("vllm:request_queue_time_seconds", started_s - job.arrived_s)
        self._time("vllm:request_inference_time_seconds", now_s - started_s)
        self._time("vllm:request_prefill_time_seconds", first_s - started_s)
        self._time("vllm:request_decode_time_seconds", now_s - first_s)
        if usage.answer > 1:
            self._time("vllm:request_time_per_output_token_seconds", (now_s - first_s) / (usage.answer - 1))
        self._time("vllm:request_prompt_tokens", usage.prompt)
        self._time("vllm:request_generation_tokens", usage.answer)
        self._time("vllm:request_params_max_tokens", job.ask.options.max_new_tokens)
        self._time("vllm:request_params_n", job.ask.num_answers)

    def _count(self, name: str, by: float) -> None:
        self._counters[name].labels(*self._values).inc(by)

    def _by(self, name: str, label: str, by: float = 1) -> None:
        self._labelled[name].labels(*self._values, label).inc(by)

    def _time(self, name: str, value: float) -> None:
        self._histograms[name].labels(*self._values).observe(value)
