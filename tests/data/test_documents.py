"""Documents are cut to pieces and joined to blocks: every token once, in order."""

import io
import random
from pathlib import Path

import numpy as np
import pytest

from workflow.core.errors import BadInput
from workflow.data.documents import NextTokens, Openings, Pieces
from workflow.data.text_file import read_documents
from workflow.data.token_cache import Ragged


def tokens_of(pieces: Pieces, index: int) -> list[tuple[int, int]]:
    """The tokens of a piece: each with its document and its place in that."""
    document, begin, size = (
        int(of_all[index]) for of_all in (pieces.documents, pieces.begins, pieces.sizes)
    )
    return [(document, place) for place in range(begin, begin + size)]


@pytest.mark.parametrize("longest", [1, 2, 7, 64, 1000])
@pytest.mark.parametrize("seed", range(8))
def test_every_token_is_in_one_piece_and_blocks_are_full(longest: int, seed: int) -> None:
    draw = random.Random(seed)
    tokens = np.array([draw.choice([0, 1, 3, draw.randrange(200)]) for _ in range(30)])
    every = [(document, place) for document, count in enumerate(tokens) for place in range(count)]
    joined, alone = Pieces.of(tokens, longest, True), Pieces.of(tokens, longest, False)
    for pieces in (joined, alone):
        found = [one for index in range(len(pieces)) for one in tokens_of(pieces, index)]
        assert found == every
        assert pieces.sizes.max() <= longest and pieces.sizes.min() > 0
        assert pieces.blocks[0] == 0 and pieces.blocks[-1] == len(pieces)
    of_blocks = np.add.reduceat(joined.sizes, joined.blocks[:-1])
    assert (of_blocks[:-1] == longest).all() and 0 < of_blocks[-1] <= longest
    assert np.array_equal(alone.blocks, np.arange(len(alone) + 1))
    assert (alone.begins % longest == 0).all()


def test_a_piece_teaches_each_token_after_the_one_before() -> None:
    rows = Ragged(np.array([9, 1, 2, 3, 8, 9, 4, 8], np.int32), np.array([0, 5, 8]))
    pieces = Pieces.of(np.array([4, 2]), 3, True)
    read, taught = (NextTokens(rows, pieces, taught, virtual=1 - taught) for taught in (0, 1))
    assert [row.tolist() for row in read] == [[-1, 9], [-1, 3], [-1, 9]]
    assert [row.tolist() for row in taught] == [[1, 2, 3], [8], [4, 8]]
    assert pieces.blocks.tolist() == [0, 1, 3]
    for of_all in (read, taught):
        assert [len(row) for row in of_all] == of_all.lengths.tolist()
    openings = Openings(rows, 1, [-1, 9])
    assert [row.tolist() for row in openings] == [[-1, 9, 1, 2], [-1, 9, 4]]
    assert openings.lengths.tolist() == [4, 3]
    assert [part.tolist() for part in openings.divided(0, 1)] == [[1, 2], [3]]


def documents(content: bytes, separator: str | None = None) -> list[str]:
    return list(read_documents(Path("a.txt"), io.BytesIO(content), separator))


def test_documents_end_with_blank_lines_or_a_separator() -> None:
    text = b"\xef\xbb\xbfone\r\nline \n\n \t\n\ntwo\n\n\n"
    assert documents(text) == ["one\nline ", "two"]
    text = b"one\n\nstill<|end|>two<|end|><|end|>\n<|end|>\nthree\n"
    assert documents(text, "<|end|>") == ["one\n\nstill", "two", "three"]
    assert documents(b"  indented\n  more") == ["  indented\n  more"]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b" \n\n", r"a\.txt: an empty file"),
        (b"one\nt\xe9t\xe9\nthree\n", r"a\.txt: line 2: the byte 0xe9"),
        (b"one\ncaf\xc3", r"a\.txt: line 2: the byte 0xc3 .*may be truncated"),
    ],
)
def test_a_file_that_is_no_text_is_refused(content: bytes, found: str) -> None:
    with pytest.raises(BadInput, match=found):
        documents(content)
