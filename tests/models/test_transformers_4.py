"""transformers 4 loads the folders that we save, with the same ids and logits.

It lies in the folder $WORKFLOW_TRANSFORMERS_4, into which scripts/test_slow installs it.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import BERT_TINY, GPT_TINY, ROOT, T5_TINY
from plain_logits import TEXT, plain_results
from safetensors.torch import load_file
from test_decoder_only import make_small
from tiny_models import make_t5gemma

from workflow.models.families import family_of
from workflow.models.hub import load_tokenizer
from workflow.models.loading import load_model, save_model

INSTALLED = os.environ.get("WORKFLOW_TRANSFORMERS_4", "")
DRAWN = (
    "gemma", "gemma2", "gemma3_text", "gpt_neox", "llama", "mistral", "opt", "phi3", "qwen2",
    "qwen3", "albert", "deberta-v2", "distilbert", "electra", "modernbert", "roberta",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="$WORKFLOW_TRANSFORMERS_4 names no folder")
def test_saved_folders_are_the_same_to_transformers_4(tmp_path: Path) -> None:
    models: dict[str, Any] = {kind: make_small(kind) for kind in DRAWN}
    make_t5gemma(tmp_path / "t5gemma")
    for folder in (T5_TINY, GPT_TINY, BERT_TINY, tmp_path / "t5gemma"):
        models[folder.name] = load_model(folder)
    places = [tmp_path / "saved" / name for name in models]
    for model, place in zip(models.values(), places, strict=True):
        family = family_of(model.config)
        tiny = {"encoder": BERT_TINY, "decoder-only": GPT_TINY}.get(family.name, T5_TINY)
        save_model(model, load_tokenizer(tiny), place)
    script, environment = ROOT / "tests" / "plain_logits.py", {"PYTHONPATH": INSTALLED}
    subprocess.run([sys.executable, script, *places], check=True, env=os.environ | environment)
    for place in places:
        of_4, logits = load_file(place / "of_4.safetensors"), plain_results(place)["logits"]
        assert of_4["ids"].tolist() == [load_tokenizer(place)(TEXT)["input_ids"]], place.name
        difference = (of_4["logits"] - logits).abs().max()
        assert difference <= 1e-5 * logits.abs().max(), place.name
