"""Scoring without a job: logits of some words for rows of ids, and their probabilities."""

from typing import Any

import numpy as np
import pytest
import torch
from conftest import ALONE, make_t5
from test_generate import PROMPTS, cut_rows

from workflow.inference.scorer import LabelIds, Scoring, label_probabilities, score_labels


@pytest.mark.parametrize(
    "scoring", [Scoring(LabelIds((7, 3, 5)), 40), Scoring(LabelIds((7, 3, 5)), 1, batch_size=4)]
)
def test_logits_are_those_of_plain_transformers(tokenizer: Any, scoring: Scoring) -> None:
    model, rows = make_t5(), tokenizer(PROMPTS)["input_ids"]
    logits = dict(score_labels(model, cut_rows(rows), scoring, ALONE))
    assert sorted(logits) == list(range(len(rows)))
    with torch.no_grad():
        for index, row in enumerate(rows):
            wanted = model(
                input_ids=torch.tensor([row]), decoder_input_ids=torch.tensor([[0]])
            ).logits[0, 0, [7, 3, 5]]
            torch.testing.assert_close(torch.tensor(logits[index]), wanted, rtol=1e-5, atol=1e-5)


def test_probabilities_are_over_the_words_and_none_where_a_logit_is_infinite() -> None:
    logits = np.array([[0.0, np.log(3)], [1.0, -np.inf], [np.nan, 0.0]], np.float32)
    probabilities = label_probabilities(logits)
    np.testing.assert_allclose(probabilities[0], [0.25, 0.75], rtol=1e-7)
    assert np.isnan(probabilities[1:]).all()
