"""Examples share the beginnings of their prompts only where no adapter drops anything."""

import pytest
from conftest import GPT_TINY
from transformers import AutoConfig, AutoModelForCausalLM

from workflow import make_job
from workflow.models.configuration import set_dropout
from workflow.models.families import family_of
from workflow.tuning import tuning_of


@pytest.mark.parametrize(("dropout", "shares"), [(0.0, True), (0.05, False)])
def test_an_adapter_with_dropout_shares_no_prefixes(dropout: float, shares: bool) -> None:
    config = AutoConfig.from_pretrained(GPT_TINY)
    set_dropout(config, 0.0)
    model = AutoModelForCausalLM.from_config(config)
    request = make_job(
        "seq2seq", model_init_name="m", data_name="d", tuning="lora", lora_dropout=dropout
    )
    tuning_of(request).apply(model)
    assert family_of(model.config).shares_prefixes(model.config) is shares
