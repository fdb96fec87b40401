"""What the page shows, without a browser: escaped texts, numbers, and trees whose branches do not cross."""

import io
from html.parser import HTMLParser

import pytest
from matplotlib.image import imread

from eagle.chat import Piece
from eagle.stats import DecodeStats
from eagle.web.panel import Numbers, panel_html, round_html
from eagle.web.seen_round import SeenRound
from eagle.web.transcript import Turn, coloured, conversation_html
from eagle.web.tree_picture import depths_of, rows_of, shortened, told_prob, tree_png

NASTY = ["<script>alert(1)</script>", "a & b &amp; c", "\" onmouseover='x'", "</div></mark>", "<!-- -->", "]]>"]


class Elements(HTMLParser):
    """Tags, and the texts between them."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("text", NASTY)
def test_texts_come_back_letter_by_letter(text):
    turn = Turn(text, [Piece(text, True), Piece(text, False)], note=text, error=text)
    elements = Elements(conversation_html([turn]))
    assert set(elements.tags) == {"div", "mark", "span"} and elements.text == text * 5


def test_neighbours_of_one_kind_are_one_stretch():
    pieces = [Piece("a", True), Piece("b", True), Piece("c", False)]
    assert coloured(pieces) == "<mark>ab</mark><span>c</span>"


def test_numbers_are_those_of_the_answer():
    stats = DecodeStats(rounds=10, num_accepted=15, num_tokens=25, prefill_s=0.5, decode_s=2.0)
    plain = DecodeStats(rounds=25, num_tokens=25, decode_s=5.0)
    assert list(Numbers(stats, plain).tiles().values()) == ["1.50", "2.50", "12.5", "2.50\N{MULTIPLICATION SIGN}"]
    assert list(Numbers().tiles().values()) == ["\N{EN DASH}"] * 4
    assert "10 rounds, 26 tokens, first token after 0.50 s" in panel_html(Numbers(stats))


SEEN = SeenRound(
    words=("·a", "·b", "$x_1$", "·c", "天空"),
    parents=(-1, 0, 0, 1, 2),
    probs=(1.0, 0.5, 0.25, 0.75, 0.1),
    drawn=(False, False, True, False, True),
    path=(1, 3),
    bonus="·d",
    at_one=True,
)


def test_a_tree_is_a_picture_that_carries_itself():
    png = tree_png(SEEN)
    height, width = imread(io.BytesIO(png)).shape[:2]
    assert width > height > 100
    page = round_html(SEEN, 3, png)
    assert 'alt="Round 3: 2 of 4 drafted tokens accepted" src="data:image/png;base64,' in page
    assert "at temperature 1" in page


@pytest.mark.parametrize("parents", [[-1], [-1, 0, 1, 2], [-1, 0, 0, 0], [-1, 0, 0, 1, 1, 2, 4, 0], list(SEEN.parents)])
def test_no_two_nodes_stand_in_one_place_and_no_branches_cross(parents):
    depths, rows = depths_of(parents), rows_of(parents)
    assert len(set(zip(depths, rows, strict=True))) == len(parents)
    for one in range(1, len(parents)):
        for two in range(1, len(parents)):
            if depths[one] == depths[two] and rows[parents[one]] < rows[parents[two]]:
                assert rows[one] < rows[two]


def test_long_words_are_cut():
    assert shortened("a" * 40) == "a" * 10 + "\N{HORIZONTAL ELLIPSIS}" and shortened("·word") == "·word"


def test_small_probabilities_are_not_told_as_none():
    assert [told_prob(prob) for prob in (0.0, 0.004, 0.005, 0.25)] == ["0.00", "<0.01", "0.01", "0.25"]
