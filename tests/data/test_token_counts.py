"""The draft vocabulary: what it holds, how it is stored, and when it is refused."""

import pytest
import torch
from safetensors.torch import save_file

from eagle.data.conversations import TokenRow
from eagle.data.token_counts import (
    build_vocabulary,
    check_data,
    count_tokens,
    coverage,
    load_vocabulary,
    provenance_of,
    save_vocabulary,
)

V = 12


def row(id: str, ids: list[int], *spans: tuple[int, int]) -> TokenRow:
    return TokenRow(id, "x", 1.0, 0, (), tuple(ids), spans, ("stop",) * len(spans))


ROWS = [row("a", [1, 1, 7, 7, 3], (2, 5)), row("b", [2, 9, 7, 2, 3, 3], (1, 3), (4, 6))]  # 7 x3, 3 x3, 9 x1


def test_only_answers_are_counted():
    counted = count_tokens(ROWS, V)
    assert counted.counts.tolist() == [0, 0, 0, 3, 0, 0, 0, 3, 0, 1, 0, 0]
    assert counted.num_rows == 2
    assert coverage(counted.counts, 2) == pytest.approx(6 / 7)


def test_the_hash_knows_the_data_and_not_its_order():
    assert count_tokens(ROWS[::-1], V).data_sha256 == count_tokens(ROWS, V).data_sha256
    assert count_tokens(ROWS[:1], V).data_sha256 != count_tokens(ROWS, V).data_sha256


def test_offsets_lead_to_the_most_frequent_tokens():
    vocabulary = build_vocabulary(count_tokens(ROWS, V).counts, 3)
    assert vocabulary.target_ids.tolist() == [3, 7, 9]
    assert vocabulary.d2t.tolist() == [3, 6, 7], "an offset: target id = draft id + d2t[draft id]"
    assert vocabulary.t2d.nonzero()[:, 0].tolist() == [3, 7, 9]


def test_ends_of_turn_are_always_in():
    """The rarest token displaces the most frequent ones' last when it ends turns."""
    assert build_vocabulary(count_tokens(ROWS, V).counts, 3, always=[11]).target_ids.tolist() == [3, 7, 11]


def test_equal_counts_are_settled_by_the_lower_id():
    assert build_vocabulary(torch.ones(V, dtype=torch.int64), 4).target_ids.tolist() == [0, 1, 2, 3]


def test_more_draft_tokens_than_the_data_knows_are_refused():
    with pytest.raises(
        ValueError, match="draft_vocab_size is 4, the answers hold 3 distinct tokens of 12: choose 1 to 3"
    ):
        build_vocabulary(count_tokens(ROWS, V).counts, 4)


def test_tokens_of_another_target_are_refused():
    with pytest.raises(ValueError, match="row a holds token 7, the target has 5"):
        count_tokens(ROWS, 5)


def stored(tmp_path):
    counted = count_tokens(ROWS, V)
    vocabulary = build_vocabulary(counted.counts, 2)
    save_vocabulary(tmp_path / "v.safetensors", vocabulary, provenance_of(vocabulary, counted, "tiny", "rows"))
    return tmp_path / "v.safetensors", vocabulary


def test_a_stored_vocabulary_comes_back_with_its_provenance(tmp_path):
    path, vocabulary = stored(tmp_path)
    loaded, provenance = load_vocabulary(path, "tiny", V)
    assert torch.equal(loaded.d2t, vocabulary.d2t) and torch.equal(loaded.t2d, vocabulary.t2d)
    assert (provenance.num_rows, provenance.num_tokens, provenance.draft_vocab_size) == (2, 7, 2)
    assert provenance.coverage == pytest.approx(6 / 7)
    check_data(provenance, count_tokens(ROWS, V))


def test_another_target_or_other_data_are_refused(tmp_path):
    path, _ = stored(tmp_path)
    with pytest.raises(ValueError, match="is for target tiny with 12 tokens, this is tiny with 13"):
        load_vocabulary(path, "tiny", 13)
    with pytest.raises(ValueError, match="this is large with 12"):
        load_vocabulary(path, "large", V)
    with pytest.raises(ValueError, match="counted on 2 rows of rows, the data now has 1"):
        check_data(load_vocabulary(path, "tiny", V)[1], count_tokens(ROWS[:1], V))


def test_a_file_without_provenance_is_refused(tmp_path):
    save_file({"d2t": torch.zeros(1, dtype=torch.int64)}, tmp_path / "v.safetensors")
    with pytest.raises(ValueError, match="says nothing of its origin"):
        load_vocabulary(tmp_path / "v.safetensors", "tiny", V)


@pytest.mark.parametrize("size", [0, 5, 60, -3])
def test_a_damaged_file_is_named(tmp_path, size):
    path, _ = stored(tmp_path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"v\.safetensors is no whole draft vocabulary \(.*\): build it again"):
        load_vocabulary(path, "tiny", V)


def test_no_answers_make_no_vocabulary():
    with pytest.raises(ValueError, match="no answer to count tokens of"):
        build_vocabulary(torch.zeros(V, dtype=torch.int64), 1, always=[3])
