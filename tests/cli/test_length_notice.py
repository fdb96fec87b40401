"""A context far longer than those a head was trained on: said once, before the answer."""

import io

import pytest
from rich.console import Console

from eagle.chat import Chat
from eagle.checkpoints.flat import read_head
from eagle.cli.common import LengthNotice
from eagle.decode import DecodeOptions
from eagle.engine.target import Target
from eagle.loading import SHIPPED_HEAD
from eagle.trees import EagleTree
from tests import tiny_text
from tests.tiny import tiny_head


def said(trained: int | None, messages: list[str], has_head: bool = True) -> str:
    target = Target(tiny_text.target(), tiny_text.tokenizer())
    head = tiny_head(target) if has_head else None
    if head is not None:
        head.trained_length = trained
    chat = Chat(target, head, EagleTree(), options=DecodeOptions(max_new_tokens=20))
    console = Console(file=io.StringIO(), width=1000)
    notice = LengthNotice(console, chat)
    for message in messages:
        notice.check(message)
        chat.messages = [*chat.messages, {"role": "user", "content": message}]
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_context_far_beyond_is_said_once():
    """tau fell from 2.4 to 0.7 without a word, and the demo looked slower than plain decoding."""
    told = said(30, ["x" * 50, "x", "x" * 50])
    assert told.count("trained on at most 30") == 1 and "may take 70 tokens" in told and told.count("\n") == 1


@pytest.mark.parametrize(
    ("trained", "messages", "has_head"), [(35, ["x" * 50], True), (None, ["x" * 500], True), (30, ["x" * 500], False)]
)
def test_nothing_is_said_below_without_a_length_and_without_a_head(trained, messages, has_head):
    assert said(trained, messages, has_head) == ""


def test_a_conversation_counts_as_a_whole():
    assert "may take 71 tokens" in said(35, ["x" * 30, "x" * 20, "x"])


def test_the_shipped_head_names_its_length():
    assert read_head(SHIPPED_HEAD).trained_length == 1024
