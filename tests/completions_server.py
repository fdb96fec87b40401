"""A server with OpenAI's completions over a tiny target, in a thread: what regenerating and measuring ask of one."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from eagle.decode import DecodeOptions, autoregressive
from eagle.engine.target import Target
from eagle.sampling import Sampling, seeded
from tests import tiny_text

Trouble = Callable[[int, dict[str, Any]], tuple[int, Any] | None]  # number and body of a request -> status and answer


class CompletionsServer(ThreadingHTTPServer):
    """Answers as the target itself; `trouble` may put something else in place of an answer."""

    daemon_threads = True

    def __init__(self, trouble: Trouble = lambda number, body: None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = Target(tiny_text.target(), tiny_text.tokenizer())
        self.trouble, self.bodies, self.running, self.most_running = trouble, [], 0, 0
        self.models, self.stop_ids = ["tiny"], frozenset[int]()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def completion(self, body: dict[str, Any]) -> Any:
        prompt = body["prompt"]
        ids = tiny_text.tokenizer()(prompt)["input_ids"] if isinstance(prompt, str) else prompt
        options = DecodeOptions(Sampling(body["temperature"]), body["max_tokens"], stop_ids=self.stop_ids)
        steps = list(autoregressive(self.target, ids, options, seeded(body["seed"])))
        if body.get("stream"):
            events = [{"choices": [{"token_ids": step.tokens, "text": ""}]} for step in steps]
            return "".join(f"data: {event}\n\n" for event in (*map(json.dumps, events), "[DONE]")).encode()
        tokens = [token for step in steps for token in step.tokens]
        choice = {"token_ids": tokens, "prompt_token_ids": ids, "finish_reason": steps[-1].finish, "text": ""}
        return {"choices": [choice], "usage": {"completion_tokens": len(tokens)}}


class _Handler(BaseHTTPRequestHandler):
    server: CompletionsServer

    def do_GET(self) -> None:
        self._send(200, {"data": [{"id": name} for name in self.server.models]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            server.bodies.append(body)
            number = len(server.bodies)
            server.running += 1
            server.most_running = max(server.most_running, server.running)
        try:
            status, answer = server.trouble(number, body) or (200, server.completion(body))
        finally:
            with server.lock:
                server.running -= 1  # before the answer is sent: the next request may come at once
        self._send(status, answer)

    def _send(self, status: int, answer: Any) -> None:
        told = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    def log_message(self, *_: Any) -> None:
        """Nothing: tests read the console."""


@contextmanager
def serving(trouble: Trouble = lambda number, body: None) -> Iterator[CompletionsServer]:
    server = CompletionsServer(trouble)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
