"""Conversations with the real default model and a random head: what is drafted must not matter to what is said."""

import pytest
import torch

from eagle.chat import Chat
from eagle.decode import DecodeOptions, autoregressive
from eagle.drafters.head import DraftHead, HeadConfig
from eagle.prompting import render_prompt
from eagle.trees import EagleTree

OPTIONS = DecodeOptions(max_new_tokens=16)
POLICY = EagleTree(num_nodes=6, depth=3, top_k=2)


@pytest.fixture(scope="module")
def head(smollm2) -> DraftHead:
    config = HeadConfig(576, 576, 256, 9, 3, 64, smollm2.vocab_size, 4096, smollm2.feature_layers)
    return DraftHead(config).init_weights(torch.Generator().manual_seed(0)).eval()


def test_an_answer_is_the_targets_own_and_goes_into_the_history(smollm2, head):
    chat = Chat(smollm2, head, POLICY, OPTIONS)
    answers = [chat.ask(message) for message in ("Name three colours.", "And one more?")]
    assert [message["role"] for message in chat.messages] == ["user", "assistant"] * 2
    for turn, answer in enumerate(answers):
        prompt = render_prompt(smollm2.tokenizer, chat.messages[: 2 * turn + 1])
        ids = smollm2.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        tokens = [token for step in autoregressive(smollm2, ids, OPTIONS) for token in step.tokens]
        assert answer == smollm2.tokenizer.decode(tokens, skip_special_tokens=True)


def test_stats_count_rounds_without_the_prefill_token(smollm2, head):
    chat = Chat(smollm2, head, POLICY, OPTIONS)
    chat.ask("Count to ten.")
    stats = chat.stats
    assert stats.num_tokens == 15  # 16 less the one that the prefill emits
    # every round emits its accepted tokens and one more; only the last may be cut by the cap
    assert stats.num_accepted + stats.rounds - stats.num_tokens in (0, 1)
    assert stats.block_efficiency == stats.num_tokens / stats.rounds


def test_an_interrupted_answer_stays_in_the_history(smollm2, head):
    chat = Chat(smollm2, head, POLICY, OPTIONS)
    pieces = chat.stream("Count to ten.")
    said = next(pieces).text
    pieces.close()
    assert chat.messages[-1] == {"role": "assistant", "content": said}
    assert chat.ask("Go on.")


def test_stop_strings_end_an_answer(smollm2):
    whole = Chat(smollm2, options=OPTIONS).ask("Name three colours.")
    stop = whole[4:7]
    chat = Chat(smollm2, options=OPTIONS, stop=[stop])
    assert chat.ask("Name three colours.") == whole[: whole.index(stop)]
    assert chat.finish == "stop"


def test_a_conversation_beyond_the_context_is_refused_and_not_remembered(smollm2):
    chat = Chat(smollm2, options=OPTIONS)
    with pytest.raises(ValueError, match="exceed the target's context of 8192 tokens"):
        chat.ask("word " * 9000)
    assert chat.messages == []
    assert chat.ask("Hello.")


def test_models_without_a_template_take_one_by_name(smollm2):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Bye"},
    ]
    text = render_prompt(smollm2.tokenizer, messages, template="vicuna_v1.1")
    assert text == "Be brief. USER: Hi ASSISTANT: Hello.</s>USER: Bye ASSISTANT:"
    with pytest.raises(ValueError, match="no conversation template 'nonsense'"):
        render_prompt(smollm2.tokenizer, messages, template="nonsense")


def test_a_missing_template_is_explained(smollm2, monkeypatch):
    monkeypatch.setattr(smollm2.tokenizer, "chat_template", None)
    with pytest.raises(ValueError, match="no chat template: name a FastChat one"):
        render_prompt(smollm2.tokenizer, [{"role": "user", "content": "Hi"}])
