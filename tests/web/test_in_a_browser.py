"""The page as a visitor has it: a real browser types, waits, looks and stops, on a tiny random model."""

import time
from collections.abc import Callable

import pytest

from eagle.chat import Piece
from eagle.web.answer_settings import AnswerSettings
from tests.web.tiny_site import PATIENCE_S

MARKUP = "<script>window.hacked = 1</script> <b>bold</b> <img src=x onerror='window.hacked = 1'> ${1 + 1} {{value}} `x`"
GREEN = "rgb(211, 245, 222)"


def until(holds: Callable[[], object]) -> None:
    """Wait for something that happens in another thread."""
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def ask(tab, question: str, answered: bool = True) -> None:
    tab.fill("#message textarea", question)
    tab.press("#message textarea", "Enter")
    if answered:
        tab.wait_for_selector("#tree img")


def set_field(tab, name: str, value: str) -> None:
    tab.fill(f"#field-{name} input, #field-{name} textarea", value)


def texts(tab, selector: str) -> list[str]:
    """As they stand in the document: what is shown collapses nothing there."""
    return tab.eval_on_selector_all(selector, "all => all.map(one => one.textContent)")


def shown(text: str) -> str:
    """Carriage returns become line breaks on the way into a document."""
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\N{REPLACEMENT CHARACTER}")


def test_an_answer_has_its_colours_numbers_and_trees(tab, site):
    ask(tab, "Why?")
    conversation = site.newest
    turn, stats = conversation.turns[0], conversation.numbers.stats
    accepted = "".join(piece.text for piece in turn.pieces if piece.accepted)
    assert accepted, "nothing was accepted: the test says nothing"
    assert "".join(texts(tab, "#talk mark")) == shown(accepted)
    assert texts(tab, "#talk .hsd-answer") == [shown(turn.answer)]
    colour = "one => getComputedStyle(one).backgroundColor"
    assert tab.eval_on_selector("#talk mark", colour) == GREEN
    assert tab.eval_on_selector("#talk .hsd-answer", colour) != GREEN
    tiles = dict(zip(texts(tab, ".hsd-tile span"), texts(tab, ".hsd-tile b"), strict=True))
    assert tiles["tau"] == f"{stats.tau:.2f}" and tiles["tokens/s"] == f"{stats.tokens_per_s:.1f}"
    assert tiles["block efficiency"] == f"{stats.block_efficiency:.2f}" and tiles["speed-up"] == "\N{EN DASH}"
    best = max(len(seen.path) for _, seen in conversation.rounds)
    assert f"{best} of" in tab.get_attribute("#tree img", "alt")
    assert tab.eval_on_selector("#tree img", "one => one.complete && one.naturalWidth") > 300
    assert tab.input_value("#message textarea") == "" and tab.foreign == []


def test_another_round_is_shown_when_it_is_chosen(tab, site):
    ask(tab, "Which?")
    number = site.newest.rounds[-1][0]
    tab.fill("#number input[type=number]", str(number))
    tab.press("#number input[type=number]", "Tab")
    tab.wait_for_selector(f"#tree >> text=/^Round {number}:/")


def test_what_is_written_is_text_and_never_markup(tab, site):
    ask(tab, MARKUP)
    site.newest.turns[0].pieces[:] = [Piece(MARKUP, True), Piece(MARKUP, False)]  # a model may write it, too
    ask(tab, "And?", answered=False)
    tab.wait_for_function("document.querySelectorAll('#talk .hsd-you').length == 2")
    assert texts(tab, "#talk .hsd-you")[0] == MARKUP
    assert texts(tab, "#talk .hsd-answer")[0] == MARKUP + MARKUP
    assert tab.query_selector_all("#talk script, #talk b, #talk img") == []
    assert tab.evaluate("window.hacked") is None


def test_stop_ends_an_answer_and_keeps_what_was_said(tab, site):
    site.thread.hold_behind = 3
    ask(tab, "Tell me a long story.", answered=False)
    tab.wait_for_selector("#talk .hsd-answer mark, #talk .hsd-answer span")
    conversation = site.newest
    tab.click("#stop")
    until(conversation._stopped.is_set)
    site.thread.go_on.set()
    tab.wait_for_selector("#talk .hsd-note >> text=stopped")
    assert 0 < len(conversation.turns[0].pieces) <= 5
    site.thread.hold_behind = None
    tab.fill("#message textarea", "Go on.")
    tab.click("#send")
    tab.wait_for_function("document.querySelectorAll('#talk .hsd-answer').length == 2")
    until(lambda: not conversation.running)
    assert conversation._chat.messages[1]["content"] == conversation.turns[0].answer


def test_clear_empties_the_page_in_mid_answer(tab, site):
    site.thread.hold_behind = 3
    ask(tab, "Tell me a long story.", answered=False)
    tab.wait_for_selector("#talk .hsd-cursor")
    until(lambda: len(site.newest.turns[0].pieces) >= 3)
    tab.click("#clear")
    tab.wait_for_selector("#talk .hsd-empty")
    site.thread.go_on.set()
    until(lambda: not site.newest.running)
    assert site.newest.turns == [] and texts(tab, ".hsd-tile b") == ["\N{EN DASH}"] * 4


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("tree", "oak", "unknown tree 'oak': choose one of auto"),
        ("tree", "eagle:num_nodes", "must be FIELD=VALUE"),
        ("max_new_tokens", "0", "max_new_tokens is 0, it must be at least 1"),
    ],
)
def test_a_mistake_is_told_and_the_question_comes_back(tab, site, name, value, told):
    ask(tab, "First")
    set_field(tab, name, value)
    ask(tab, "Second", answered=False)
    tab.wait_for_selector(f"#talk .hsd-error >> text={told}")
    tab.wait_for_function("document.querySelector('#message textarea').value == 'Second'")
    assert site.newest.turns[0].answer and site.newest.turns[-1].error


def test_a_question_that_does_not_fit_is_told(tab, site):
    ask(tab, "x" * 600, answered=False)
    tab.wait_for_selector("#talk .hsd-error >> text=exceed the target's context of 512 tokens")


def test_plain_decoding_beside_it_says_the_same_tokens(tab, site):
    ask(tab, "Compare")
    tab.click("#compare")
    tab.wait_for_function("document.querySelector('.hsd-verdict')?.textContent")
    conversation = site.newest
    assert texts(tab, ".hsd-verdict") == [f"the same {len(conversation._last.tokens)} tokens"]
    both = texts(tab, ".hsd-beside .hsd-answer")
    assert both[0] == both[1] == shown(conversation.turns[0].answer)
    speedup = texts(tab, ".hsd-tile b")[3]
    assert speedup == f"{conversation.numbers.speedup:.2f}\N{MULTIPLICATION SIGN}"


def test_two_browsers_have_conversations_of_their_own(tab, site, browser):
    ask(tab, "Mine")
    other = browser.new_page()
    other.goto(site.url)
    other.wait_for_selector("#message textarea")
    ask(other, "Yours")
    assert texts(tab, "#talk .hsd-you") == ["Mine"] and texts(other, "#talk .hsd-you") == ["Yours"]
    before = len(site.visitors)
    theirs = site.newest
    other.close()
    until(lambda: len(site.visitors) == before - 1)
    assert theirs.turns == [] and theirs._chat is None


def test_the_same_seed_gives_the_same_answer(tab, site):
    answers = []
    for seed in ("7", "7", "8"):
        set_field(tab, "seed", seed)
        ask(tab, "Roll")
        answers.append(site.newest.turns[0].answer)
        tab.click("#clear")
        tab.wait_for_selector("#tree .hsd-empty")
    assert answers[0] == answers[1] != answers[2]
    assert site.newest._settings is None or isinstance(site.newest._settings, AnswerSettings)
