"""The shipped pair in a browser: text, colours and numbers are those of its own rounds; pictures are left to see."""

import torch

from eagle.chat import Chat
from eagle.decode import DecodeOptions
from eagle.loading import load_head
from eagle.web.answer_settings import AnswerSettings
from tests.web.tiny_site import PATIENCE_S, Site

QUESTION = "Why is the sky blue? Answer in <b>one</b> sentence."
SETTINGS = AnswerSettings(tree="eagle:num_nodes=12,depth=5,top_k=3", max_new_tokens=48)


class RealPair:
    """Chats of the embedded target and its shipped head."""

    def __init__(self, target):
        self.target, self.head = target, load_head(target=target, dtype=torch.float32)

    def make(self, settings: AnswerSettings, plain: bool = False) -> Chat:
        head, policy = (None, None) if plain else (self.head, settings.policy)
        return Chat(self.target, head, policy, settings.over(DecodeOptions()), settings.system or None)


def test_a_real_answer_looks_as_it_was_decoded(smollm2, browser, tmp_path):
    pair = RealPair(smollm2)
    with Site(pair, SETTINGS).served() as site:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(PATIENCE_S * 1000)
        page.goto(site.url)
        page.fill("#message textarea", QUESTION)
        page.click("#send")
        page.wait_for_selector("#tree img")
        page.click("#compare")
        page.wait_for_function("document.querySelector('.hsd-verdict')?.textContent")
        own = pair.make(SETTINGS)
        pieces = list(own.stream(QUESTION))
        marks = page.eval_on_selector_all("#talk mark", "all => all.map(one => one.textContent).join('')")
        assert marks == "".join(piece.text for piece in pieces if piece.accepted) != ""
        assert page.text_content("#talk .hsd-answer") == "".join(piece.text for piece in pieces)
        assert page.text_content("#talk .hsd-you") == QUESTION
        assert page.text_content("[data-number='tau'] b") == f"{own.stats.tau:.2f}"
        assert page.text_content(".hsd-verdict") == f"the same {len(own.tokens)} tokens"
        for width in (1280, 420):
            page.set_viewport_size({"width": width, "height": 900})
            page.screenshot(path=tmp_path / f"{width}.png", full_page=True)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing is cut at the side"
            assert (tmp_path / f"{width}.png").stat().st_size > 20_000
        page.close()
