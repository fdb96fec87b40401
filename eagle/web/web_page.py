"""The page: gradio's components, and what they call. Everything shown is made elsewhere.

Shown to this machine alone unless a host says otherwise, never over a tunnel; no address but its own is asked for
anything, and nothing is kept behind it.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from eagle.judging import AUTO, VERIFIERS
from eagle.web.answer_settings import AnswerSettings
from eagle.web.beside_plain import beside_html
from eagle.web.conversation import Conversation
from eagle.web.page_style import CSS, FONT, MONO
from eagle.web.panel import Numbers, panel_html, round_html
from eagle.web.transcript import conversation_html, plain
from eagle.web.tree_picture import tree_png
from eagle.web.visitors import Visitors

UPDATE_S = 0.08  # between two updates of the page: each of them costs the browser and this machine
Update = dict[Any, Any]  # component -> what it shows now
FIELDS = ("temperature", "top_p", "top_k", "verifier", "tree", "seed", "max_new_tokens", "system")


@dataclass(frozen=True)
class Page:
    """The components that change."""

    talk: gr.HTML
    message: gr.Textbox
    send: gr.Button
    stop: gr.Button
    clear: gr.Button
    compare: gr.Button
    panel: gr.HTML
    beside: gr.HTML
    number: gr.Slider
    tree: gr.HTML
    fields: tuple[Any, ...]  # in the order of FIELDS


def build_page(visitors: Visitors, defaults: AnswerSettings, told: str) -> gr.Blocks:
    """The page for the conversations of `visitors`; `told` is one line about the models."""
    blocks = gr.Blocks(title="eagle-hsd", analytics_enabled=False, fill_width=True)
    with blocks:
        page = _lay_out(defaults, told)
        _wire(blocks, page, visitors)
    return blocks


def _lay_out(defaults: AnswerSettings, told: str) -> Page:
    gr.HTML(f'<div class="hsd-title"><b>eagle-hsd</b> <span>{plain(told)}</span></div>')
    with gr.Row(equal_height=False):
        with gr.Column(scale=7, min_width=320):
            talk = gr.HTML(conversation_html([]), elem_id="talk", autoscroll=True, max_height=430, min_height=430)
            message = gr.Textbox(
                elem_id="message", show_label=False, placeholder="Ask something; Enter sends", lines=1, max_lines=8
            )
            with gr.Row():
                send = gr.Button("Send", elem_id="send", variant="primary", min_width=80)
                stop = gr.Button("Stop", elem_id="stop", min_width=80)
                clear = gr.Button("Clear", elem_id="clear", min_width=80)
        with gr.Column(scale=4, min_width=300):
            panel = gr.HTML(panel_html(Numbers()), elem_id="panel")
            compare = gr.Button("Compare with plain decoding", elem_id="compare", size="md")
            fields = _lay_out_fields(defaults)
    beside = gr.HTML(elem_id="beside")
    number = gr.Slider(1, 2, value=1, step=1, label="Round", elem_id="number", visible=False)
    tree = gr.HTML(round_html(None, 0, None), elem_id="tree")
    return Page(talk, message, send, stop, clear, compare, panel, beside, number, tree, fields)


def _lay_out_fields(defaults: AnswerSettings) -> tuple[Any, ...]:
    with gr.Accordion("Settings of the next answer", open=True):
        temperature = gr.Slider(0, 2, value=defaults.temperature, step=0.05, label="Temperature (0: greedy)")
        top_p = gr.Slider(0.05, 1, value=defaults.top_p, step=0.05, label="Top-p (1: off)")
        with gr.Row():
            verifier = gr.Dropdown([AUTO, *VERIFIERS], value=defaults.verifier, label="Verifier", min_width=130)
            tree = gr.Textbox(value=defaults.tree, label="Tree", max_lines=1, min_width=130)
        with gr.Row():
            top_k = gr.Number(value=defaults.top_k, label="Top-k (0: off)", precision=0, min_width=90)
            seed = gr.Number(value=defaults.seed, label="Seed", precision=0, min_width=90)
            most = gr.Number(value=defaults.max_new_tokens, label="Most tokens", precision=0, min_width=90)
        system = gr.Textbox(value=defaults.system, label="System prompt", lines=1, max_lines=4)
    for name, field in zip(FIELDS, (temperature, top_p, top_k, verifier, tree, seed, most, system), strict=True):
        field.elem_id = f"field-{name}"
    return temperature, top_p, top_k, verifier, tree, seed, most, system


def _wire(blocks: gr.Blocks, page: Page, visitors: Visitors) -> None:
    """Which component calls what. Nothing is offered as an API; answers of different browsers run side by side."""

    def answer(request: gr.Request, message: str, *fields: Any) -> Iterator[Update]:
        conversation = visitors.of(_session(request))
        if message.strip():
            yield from _answer_updates(page, conversation, message, dict(zip(FIELDS, fields, strict=True)))

    def compare(request: gr.Request) -> Iterator[Update]:
        yield from _compare_updates(page, visitors.of(_session(request)))

    def stop(request: gr.Request) -> None:
        visitors.of(_session(request)).stop()

    def clear(request: gr.Request) -> Update:
        (conversation := visitors.of(_session(request))).clear()
        return {**_shown(page, conversation), **_last_round(page, conversation), page.beside: ""}

    def show_round(request: gr.Request, number: float) -> str:
        return _tree_html(visitors.of(_session(request)), int(number))

    def leave(request: gr.Request) -> None:
        visitors.leave(_session(request))

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    long = {**quiet, "concurrency_limit": None}
    changing = [page.talk, page.message, page.panel, page.beside, page.number, page.tree]
    gr.on([page.send.click, page.message.submit], answer, [page.message, *page.fields], changing, **long)
    page.compare.click(compare, None, [page.panel, page.beside], **long)
    page.stop.click(stop, None, None, queue=False, **quiet)
    page.clear.click(clear, None, changing, queue=False, **quiet)
    page.number.input(show_round, page.number, page.tree, queue=False, trigger_mode="always_last", **quiet)
    blocks.unload(leave)


def _session(request: gr.Request) -> str:
    return request.session_hash or ""


def _answer_updates(page: Page, conversation: Conversation, message: str, fields: dict[str, Any]) -> Iterator[Update]:
    beginning: Update = {page.message: "", page.beside: "", page.tree: ""}
    for _ in _now_and_then(_explained(conversation.answer(message, fields))):
        yield {**_shown(page, conversation), **beginning}
        beginning = {}
    failed = bool(conversation.turns and conversation.turns[-1].error)
    yield {
        **_shown(page, conversation),
        **_last_round(page, conversation),
        **({page.message: message} if failed else {}),
    }


def _compare_updates(page: Page, conversation: Conversation) -> Iterator[Update]:
    for _ in _now_and_then(_explained(conversation.compare())):
        yield _beside(page, conversation)
    yield _beside(page, conversation)


def _beside(page: Page, conversation: Conversation) -> Update:
    shown = conversation.beside
    return {page.panel: panel_html(conversation.numbers), page.beside: "" if shown is None else beside_html(shown)}


def _explained(news: Iterator[None]) -> Iterator[None]:
    """What the conversation refuses, as a message over the page; nothing on it changes."""
    try:
        yield from news
    except ValueError as error:
        raise gr.Error(plain(str(error)), title="", print_exception=False) from None


def _now_and_then(news: Iterator[None]) -> Iterator[None]:
    """The first of the news at once, later ones when the last is `UPDATE_S` old."""
    shown_at = float("-inf")
    for _ in news:
        if time.monotonic() - shown_at >= UPDATE_S:
            yield
            shown_at = time.monotonic()


def _shown(page: Page, conversation: Conversation) -> Update:
    talk = conversation_html(conversation.turns, conversation.running)
    return {page.talk: talk, page.panel: panel_html(conversation.numbers)}


def _last_round(page: Page, conversation: Conversation) -> Update:
    """The slider over the rounds of the last answer, at the one that accepted most."""
    rounds = conversation.rounds
    if not rounds:
        return {page.number: gr.update(visible=False), page.tree: round_html(None, 0, None)}
    best = max(rounds, key=lambda one: len(one[1].path))[0]
    first, last = rounds[0][0], rounds[-1][0]
    slider = gr.update(minimum=first, maximum=max(last, first + 1), value=best, visible=True)
    return {page.number: slider, page.tree: _tree_html(conversation, best)}


def _tree_html(conversation: Conversation, number: int) -> str:
    seen = dict(conversation.rounds).get(number)
    return round_html(seen, number, None if seen is None else tree_png(seen))


def serve(blocks: gr.Blocks, host: str, port: int, wait: Callable[[], None]) -> None:
    """Serve the page until `wait` returns or is interrupted. Raises OSError for a port that is taken."""
    blocks.queue(max_size=64)
    theme = gr.themes.Default(font=FONT, font_mono=MONO, primary_hue="green")
    try:
        blocks.launch(
            share=False,
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            mcp_server=False,
            max_file_size=1,
            theme=theme,
            css=CSS,
        )
        wait()
    finally:
        blocks.close(verbose=False)
