"""What transformers alone, of any version, makes of model folders: run with their paths."""

import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

TEXT = "Translate it: yes, no. The 1,234 foxes (don't) jump — over {lazy} dogs?"


def plain_results(folder: Path) -> dict[str, torch.Tensor]:
    """The ids of a text, and the logits of fixed ids, by the classes that a folder names."""
    name = transformers.AutoConfig.from_pretrained(folder).architectures[0]
    model = getattr(transformers, name).from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = torch.arange(5, 45).reshape(2, 20)
    decoder = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        logits = model(input_ids=ids, **decoder).logits.float()
    return {"ids": tokenizer(TEXT, return_tensors="pt")["input_ids"], "logits": logits}


if __name__ == "__main__":
    for folder in map(Path, sys.argv[1:]):
        found = plain_results(folder)
        save_file(found, folder / f"of_{transformers.__version__[0]}.safetensors")
