"""Words that stand for classes, each as the first token that a model writes."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerBase

from workflow.core.errors import BadInput, Problem
from workflow.data.text_format import TextFormat
from workflow.data.text_ids import ids_ending_in_whitespace
from workflow.inference.scorer import LabelIds


def label_ids(
    tokenizer: PreTrainedTokenizerBase, words: Sequence[str], format: TextFormat
) -> LabelIds:
    """The ids of the words; raises BadInput unless they are different single tokens."""
    pieces = [format.word_ids(tokenizer, word) for word in words]
    if problems := _problems_of_words(tokenizer, words, pieces):
        raise BadInput(problems)
    spaced = [format.word_ids(tokenizer, word, "a\n") for word in words]
    plain_ids, spaced_ids = (tuple(ids[0] for ids in form if ids) for form in (pieces, spaced))
    if plain_ids == spaced_ids or _problems_of_words(tokenizer, words, spaced):
        return LabelIds(plain_ids)
    return LabelIds(plain_ids, spaced_ids, ids_ending_in_whitespace(tokenizer))


def _problems_of_words(
    tokenizer: PreTrainedTokenizerBase, words: Sequence[str], pieces: Sequence[list[int]]
) -> list[Problem]:
    """Why these ids of words cannot be scored."""
    problems = []
    for word, ids in zip(words, pieces, strict=True):
        if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
            counted = f"{len(ids)} tokens" if len(ids) != 1 else "an unknown token"
            shown = " ".join(tokenizer.convert_ids_to_tokens(ids)) or "none"
            found = f"{counted} in this vocabulary: {shown}"
            expected = "a word that is a single known token"
            hint = "choose other words by --label_words, or a model whose vocabulary has them"
            problems.append(Problem(f"--label_words {word}", found, expected, hint))
    firsts = [ids[:1] for ids in pieces]
    again = [ids for ids in firsts if firsts.count(ids) > 1]
    if not problems and again:
        found = f"the same token for several: {tokenizer.convert_ids_to_tokens(again[0][0])}"
        where = f"--label_words {' '.join(words)}"
        problems.append(Problem(where, found, "different tokens", "choose other words"))
    return problems


def smoothed(targets: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Targets (examples, classes) with a share of the probability spread evenly over the classes.

    Szegedy et al. 2015, arXiv:1512.00567.
    """
    return targets * (1 - smoothing) + smoothing / targets.shape[-1]


def soft_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The cross-entropy of each example, whose logits and targets are (examples, classes).

    That of soft targets is their KL divergence up to a constant.
    """
    return -(targets * logits.float().log_softmax(-1)).sum(-1)
