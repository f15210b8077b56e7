"""Decoding that writes one of some texts: a trie of their ids."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import torch

from workflow.core.errors import BadInput, Problem
from workflow.core.files import text_lines
from workflow.data.text_format import Texts


@lru_cache(maxsize=1)
def read_choices(path: str) -> tuple[str, ...]:
    """The lines of a file that are not blank; raises BadInput if it cannot be read."""
    return text_lines(path, f"--choices {path}")


def ids_of_choices(texts: Texts, choices: Sequence[str]) -> tuple[list[list[int]], list[list[int]]]:
    """The ids of texts as completions, and the same for prompts that end with whitespace."""
    plain, spaced = (
        texts.format.targets(texts.tokenizer, [prompt] * len(choices), choices)
        for prompt in ("a", "a\n")
    )
    return plain, spaced


def longest_choice(texts: Texts, path: str | None, limit: int | None) -> int:
    """The tokens of the longest text in a file of choices; 0 without one.

    Raises:
        BadInput: the file is no list of texts, or a limit of tokens is too low for one.
    """
    rows = [*chain(*ids_of_choices(texts, read_choices(path)))] if path else []
    longest = max(map(len, rows), default=0)
    if limit is not None and limit < longest:
        expected = f"at least {longest:,}, for the longest of --choices"
        raise BadInput([Problem("--max_new_tokens", str(limit), expected, "increase it")])
    return longest


@dataclass(frozen=True)
class Trie:
    """What may follow each beginning of some texts.

    Texts begin at 0, after a prompt that ends with whitespace at 1.

    Attributes:
        nodes: of each beginning, the ids that may follow, each with the beginning that it leads to.
        children, leads: the same as tensors (beginnings, most ids); rows with fewer ids repeat the
            first.
    """

    nodes: list[dict[int, int]]
    children: torch.Tensor
    leads: torch.Tensor

    @classmethod
    def of(
        cls,
        plain: Sequence[Sequence[int]],
        spaced: Sequence[Sequence[int]],
        device: torch.device,
    ) -> "Trie":
        """The trie of texts with their end tokens, as ids, for both kinds of prompts."""
        nodes: list[dict[int, int]] = [{}, {}]
        for root, rows in enumerate((plain, spaced)):
            for row in rows:
                at = root
                for token in row:
                    if token not in nodes[at]:
                        nodes[at][token] = len(nodes)
                        nodes.append({})
                    at = nodes[at][token]
        most = max(map(len, nodes))
        ended = {row[-1]: 0 for row in plain[:1]}  # after the end nothing is read
        pairs = [[*(node or ended).items()] for node in nodes]
        padded = torch.tensor([of + of[:1] * (most - len(of)) for of in pairs], device=device)
        return cls(nodes, *padded.unbind(-1))

    def allowed(self, scores: torch.Tensor, beginnings: torch.Tensor) -> torch.Tensor:
        """Scores (rows, vocabulary) of what may follow each row's beginning; others are -inf."""
        children = self.children[beginnings]
        nothing = torch.full_like(scores, -torch.inf)
        return nothing.scatter(1, children, scores.gather(1, children))

    def after(self, beginnings: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """The beginning of each row after another token, (rows,)."""
        places = (self.children[beginnings] == ids[:, None]).int().argmax(-1, keepdim=True)
        return self.leads[beginnings].gather(1, places)[:, 0]

    def following(self, root: int, ids: Sequence[int]) -> list[int]:
        """What may follow these ids; the ids themselves end with it where they are complete."""
        node = self.nodes[root]
        for token in ids:
            node = self.nodes[node[token]] if token in node else {}
        return list(node) or list(ids[-1:])
