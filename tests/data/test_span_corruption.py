"""Span corruption hides what T5's did: 15% of the tokens, in spans of 3 on average."""

import numpy as np
import pytest
from conftest import T5_TINY
from transformers import AutoTokenizer

from workflow.data.documents import Pieces
from workflow.data.span_corruption import (
    Spans,
    corrupted_lengths,
    hidden_mask,
    longest_text,
    sentinels_of,
)
from workflow.data.token_cache import Ragged

END, FIRST = 1, 900
SENTINELS = tuple(range(999, 899, -1))


def spans_of(mask: np.ndarray) -> list[int]:
    """The lengths of hidden spans."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask, [0]])))
    return (edges[1::2] - edges[::2]).tolist()


def test_a_source_of_512_tokens_is_t5s_text_of_568_tokens() -> None:
    """`compute_input_and_target_lengths` of T5's published code, for inputs_length=512."""
    assert longest_text(512, 512, 100) == 568
    assert [int(of_all[0]) for of_all in corrupted_lengths(np.array([568]))] == [512, 114]
    assert longest_text(512, 60, 100) < 568  # as short targets are
    assert corrupted_lengths(np.array([longest_text(512, 60, 100)]))[1] <= 60
    assert longest_text(4096, 4096, 100) == 2009  # 100 marks of 3 tokens, 15% of the text


def test_density_and_spans_are_the_published_ones() -> None:
    draw = np.random.default_rng(0)
    masks = [hidden_mask(568, draw) for _ in range(500)]
    assert all(mask.sum() == 85 and len(spans_of(mask)) == 28 for mask in masks)
    lengths = np.concatenate([spans_of(mask) for mask in masks])
    assert lengths.mean() == pytest.approx(3, abs=0.05)
    # All divisions of 85 tokens among 28 spans are equally likely: P(length 1) = 27/84.
    assert (lengths == 1).mean() == pytest.approx(27 / 84, abs=0.01)
    assert not any(mask[0] for mask in masks) and all(mask[-1] for mask in masks)
    share = np.mean(masks, axis=0)[20:-20]  # everywhere in the text alike
    assert abs(share.mean() - 0.15) < 0.005 and np.ptp(share) < 0.15


@pytest.mark.parametrize("tokens", [1, 2, 3, 7, 50, 568])
def test_source_and_target_are_the_text_together(tokens: int) -> None:
    rows = Ragged(
        np.append(np.arange(2, 2 + tokens), END).astype(np.int32), np.array([0, tokens + 1])
    )
    pieces = Pieces.of(np.array([tokens]), 1000, False)
    for seed in range(20):
        read = Spans(rows, pieces, SENTINELS, False, seed)
        taught = Spans(rows, pieces, SENTINELS, True, seed)
        source, target = read[0].tolist(), taught[0].tolist()
        assert [len(source), len(target)] == [read.lengths[0], taught.lengths[0]]
        assert source.pop() == target.pop() == END
        hidden: dict[int, list[int]] = {}
        for index in target:
            if index in SENTINELS:
                hidden[index] = []
            else:
                hidden[next(reversed(hidden))].append(index)
        assert list(hidden) == list(SENTINELS[: len(hidden)])
        text = [one for index in source for one in hidden.get(index, [index])]
        assert text == list(range(2, 2 + tokens))


def test_spans_depend_on_seed_step_and_piece_alone() -> None:
    rows = Ragged(np.arange(202, dtype=np.int32), np.array([0, 101, 202]))
    pieces = Pieces.of(np.array([100, 100]), 50, False)
    spans = Spans(rows, pieces, SENTINELS, False, 3)
    first = [row.tolist() for row in spans.at_step(7)]
    assert first == [row.tolist() for row in Spans(rows, pieces, SENTINELS, False, 3, 7)]
    others = [spans.at_step(8), Spans(rows, pieces, SENTINELS, False, 4, 7)]
    assert all(row.tolist() not in first for other in others for row in other)


def test_marks_of_spans_are_found() -> None:
    tokenizer = AutoTokenizer.from_pretrained(T5_TINY)
    found = sentinels_of(tokenizer)
    assert tokenizer.convert_ids_to_tokens(list(found[:2])) == ["<extra_id_0>", "<extra_id_1>"]
    assert len(found) == 100
