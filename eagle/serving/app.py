"""The routes: OpenAI's, health and metrics."""

import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar

import torch
import transformers
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from eagle.dtypes import dtype_name
from eagle.seeds import stable_number
from eagle.serving.asking import Asking
from eagle.serving.backend import Backend
from eagle.serving.bodies import Body, ChatBody, CompletionBody
from eagle.serving.events import Cancelled, Delta, Ended, Failed
from eagle.serving.gate import Gate, Json, refused
from eagle.serving.gauges import Gauges
from eagle.serving.inbox import Inbox
from eagle.serving.refusal import Refusal, broken, from_validation, invalid, left, shutting_down
from eagle.serving.replies import CHAT, TEXT, Form, Reply
from eagle.serving.serve_options import ServeOptions
from eagle.serving.spelling import Spelling
from eagle.serving.work import Ask
from eagle.serving.worker import Worker
from eagle.version import __version__

log = logging.getLogger("eagle.serving")
STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # the second: proxies pass events on at once
AnyBody = TypeVar("AnyBody", bound=Body)


class Service:
    """What the routes share."""

    def __init__(self, backend: Backend, options: ServeOptions):
        self.backend, self.options = backend, options
        self.gauges = Gauges(backend.name)
        self.worker = Worker(backend, options, self.gauges)
        self.asking, self.spelling = Asking(backend), Spelling(backend.tokenizer)
        self.created = int(time.time())
        self.fingerprint = fingerprint(backend)

    def card(self) -> dict[str, Any]:
        """The model as /v1/models lists it."""
        limit = self.backend.context_limit
        told = {"id": self.backend.name, "object": "model", "created": self.created, "owned_by": "eagle-hsd"}
        return {**told, "root": self.backend.name, "parent": None, "max_model_len": limit, "permission": []}

    async def answer(self, request: Request, form: Form, body: Body, read: Callable[[], Ask]) -> Response:
        """Raises `Refusal` for what cannot be answered, before the first byte of a stream."""
        ask = await run_in_threadpool(read)
        inbox = Inbox(self.worker, ask, request.receive)
        wants_ids = bool(body.return_token_ids)
        reply = Reply(form, self.backend.name, self.fingerprint, ask, self.spelling, wants_ids)
        if body.stream:
            told = stream(inbox, reply, body.wants_usage)
            return StreamingResponse(told, media_type="text/event-stream", headers=STREAM_HEADERS)
        async with aclosing(inbox.events()) as events:
            async for event in events:
                if isinstance(event, Delta):
                    reply.add(event)
                elif isinstance(event, Ended):
                    return Json(reply.whole(event.usage))
                else:
                    raise told_failure(event)
        raise AssertionError("events end with one that ends them")


async def stream(inbox: Inbox, reply: Reply, wants_usage: bool) -> AsyncIterator[bytes]:
    """Server-sent events, to [DONE]; what fails behind the first one is an event with an error."""
    async with aclosing(inbox.events()) as events:
        async for event in events:
            if isinstance(event, Delta):
                for chunk in reply.chunks(event, wants_usage):
                    yield sent(chunk)
            elif not isinstance(event, Ended):
                yield sent(told_failure(event).body())
            elif wants_usage:
                yield sent(reply.last(event.usage))
    yield b"data: [DONE]\n\n"


def sent(chunk: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(chunk, separators=(',', ':'))}\n\n".encode()


def told_failure(event: Failed | Cancelled) -> Refusal:
    """A caller's mistake that only decoding found out in its own words, all else without."""
    if isinstance(event, Cancelled):
        return left() if event.by_client else shutting_down()
    return invalid(str(event.error), None) if isinstance(event.error, ValueError) else broken()


def fingerprint(backend: Backend) -> str:
    """Equal where the same seed gives the same text, as far as a server can tell."""
    target = backend.target
    versions = (__version__, torch.__version__, transformers.__version__)
    return f"fp_{stable_number(target.name, dtype_name(target.dtype), target.device, *versions):016x}"


def make_app(backend: Backend, options: ServeOptions) -> FastAPI:
    """The application of one server; its `state.service` holds what it is made of."""
    service = Service(backend, options)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.worker.start()
        yield
        await run_in_threadpool(service.worker.stop)

    app = FastAPI(title="eagle-hsd", version=__version__, lifespan=lifespan)
    app.state.service = service
    app.add_middleware(Gate, api_key=options.api_key, max_bytes=int(options.max_body_mb * 2**20))
    add_routes(app, service)
    add_refusals(app, service)
    return app


def add_routes(app: FastAPI, service: Service) -> None:
    @app.post("/v1/chat/completions")
    async def chat_completions(body: ChatBody, request: Request) -> Response:
        return await service.answer(request, CHAT, body, lambda: service.asking.chat(body))

    @app.post("/v1/completions")
    async def completions(body: CompletionBody, request: Request) -> Response:
        return await service.answer(request, TEXT, body, lambda: service.asking.completion(body))

    @app.get("/v1/models")
    async def models() -> Response:
        return Json({"object": "list", "data": [service.card()]})

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        service.asking.check_model(name)
        return Json(service.card())

    @app.get("/health")
    async def health() -> Response:
        return Json({"status": "ok"}) if service.worker.is_alive else Json({"status": "not decoding"}, 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.gauges.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/version")
    async def version() -> Response:
        return Json({"version": __version__})


def add_refusals(app: FastAPI, service: Service) -> None:
    """Errors in OpenAI's form, whoever found them."""

    def counted(refusal: Refusal) -> Response:
        if refusal.status != 429:  # counted where it is found
            service.gauges.refused(refusal.code or str(refusal.status))
        return refused(refusal)

    @app.exception_handler(Refusal)
    async def refuse(request: Request, error: Refusal) -> Response:
        return counted(error)

    @app.exception_handler(RequestValidationError)
    async def refuse_body(request: Request, error: RequestValidationError) -> Response:
        known = {**ChatBody.model_fields, **CompletionBody.model_fields}
        return counted(from_validation(error.errors(), list(known)))

    @app.exception_handler(HTTPException)
    async def refuse_route(request: Request, error: HTTPException) -> Response:
        told = f"{request.method} {request.url.path[:200]}: {error.detail}"
        return counted(Refusal(error.status_code, told, headers=error.headers or {}))

    @app.exception_handler(Exception)
    async def fail(request: Request, error: Exception) -> Response:
        return counted(broken())
