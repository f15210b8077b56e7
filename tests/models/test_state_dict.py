"""Weight files are read one tensor at a time; misfits are reported."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_t5, write_hub_folder
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tiny_models import make_family

from workflow.core.errors import BadInput
from workflow.models.loading import load_model
from workflow.models.state_dict import file_tensors, load_state_dict, saved_names

CROSS_BIAS = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
INDEX = "model.safetensors.index.json"


def change_tensors(folder: Path, **changes: torch.Tensor | None) -> Path:
    """Add tensors to a folder's only weight file, or remove them (None)."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for name, tensor in changes.items():
        tensors.pop(name, None)
        if tensor is not None:
            tensors[name] = tensor
    save_file(tensors, path, metadata={"format": "pt"})
    return folder


def logits(model: Any) -> torch.Tensor:
    ids = torch.arange(3, 23).reshape(2, 10)
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=ids, decoder_input_ids=ids[:, :4]).logits
    return found


# --- reading -------------------------------------------------------------------------------------


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def write_sparse(path: Path, elements: int) -> None:
    """A sparse safetensors file with one tensor of zeros."""
    end = 4 * elements
    entry = {"large.weight": {"dtype": "F32", "shape": [elements], "data_offsets": [0, end]}}
    header = json.dumps(entry).encode()
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + end)


def test_only_the_used_part_of_a_tensor_is_read(tmp_path: Path) -> None:
    elements = 1 << 28  # 1 GB
    write_sparse(tmp_path / "model.safetensors", elements)
    before = resident_bytes()
    for name, tensor in file_tensors(tmp_path):
        assert (name, tensor.shape) == ("large.weight", (elements,))
        assert tensor[elements // 2 : elements // 2 + 1000].sum() == 0
    assert resident_bytes() - before < 1 << 26


@pytest.mark.parametrize("layout", ["safetensors", "bin"])
def test_files_are_read_one_after_the_other(tmp_path: Path, layout: str) -> None:
    original = make_t5()
    folder = write_hub_folder(original, tmp_path / "model", f"sharded-{layout}")
    *_, last = sorted(folder.glob(f"*-of-00003.{layout}"))
    last.write_bytes(b"broken")
    taken = {}
    with pytest.raises((SafetensorError, IndexError)):
        for name, tensor in file_tensors(folder):
            taken[name] = tensor
    known = original.state_dict()
    assert len(known) // 2 < len(taken) < len(known)
    assert all(torch.equal(tensor, known[name]) for name, tensor in taken.items())


# --- filling a model -----------------------------------------------------------------------------


def test_a_file_may_name_a_tied_tensor_by_any_of_its_names(tmp_path: Path) -> None:
    original = make_t5(own_head=False)
    folder = write_hub_folder(original, tmp_path / "model", "safetensors")
    shared = original.shared.weight.detach().clone()
    names = ("shared.weight", "encoder.embed_tokens.weight", "lm_head.weight")
    for name in names:
        others = dict.fromkeys((*names, "decoder.embed_tokens.weight"))
        loaded = load_model(change_tensors(folder, **others | {name: shared}))
        assert loaded.lm_head.weight is loaded.shared.weight
        assert loaded.encoder.embed_tokens.weight is loaded.shared.weight
        assert torch.equal(loaded.shared.weight, shared)


@pytest.mark.parametrize("name", ["lm_head.weight", "decoder.embed_tokens.weight"])
def test_different_values_of_tied_tensors_are_reported(tmp_path: Path, name: str) -> None:
    original = make_t5(own_head=False)
    folder = write_hub_folder(original, tmp_path / "model", "safetensors")
    other = original.shared.weight.detach().clone()
    assert torch.equal(logits(load_model(change_tensors(folder, **{name: other}))),
                       logits(original))  # fmt: skip
    other[-1, -1] += 1e-6 + abs(float(other[-1, -1])) * 1e-6
    with pytest.raises(BadInput) as raised:
        load_model(change_tensors(folder, **{name: other}))
    (line,) = str(raised.value).splitlines()
    assert line.startswith(f"{folder}: tied tensors with different values: ")
    assert line.endswith(
        " (expected equal values). Hint: set tie_word_embeddings in config.json to false if the "
        "head is not tied."
    )


def test_a_missing_tied_tensor_is_reported_once(tmp_path: Path) -> None:
    folder = write_hub_folder(make_t5(own_head=False), tmp_path / "model", "safetensors")
    missing = dict.fromkeys(name for name in load_file(folder / "model.safetensors")
                            if "embed_tokens" in name or name == "shared.weight")  # fmt: skip
    with pytest.raises(BadInput, match=r"missing tensors: shared\.weight \(expected all tensors"):
        load_model(change_tensors(folder, **missing))


def test_files_of_a_bare_model_lack_its_prefix(tmp_path: Path) -> None:
    """E.g. facebook/bart-base on the hub, which has neither head nor bias."""
    original = make_family("bart", tmp_path / "bart").eval()
    path = tmp_path / "bart" / "model.safetensors"
    bare = {
        name.removeprefix("model."): tensor
        for name, tensor in load_file(path).items()
        if name not in ("final_logits_bias", "lm_head.weight")
    }
    assert "shared.weight" in bare
    save_file(bare, path, metadata={"format": "pt"})
    loaded = load_model(tmp_path / "bart")
    for name, tensor in original.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert torch.equal(logits(loaded), logits(original))


def test_sinusoidal_positions_missing_in_files_are_computed(tmp_path: Path) -> None:
    original = make_family("pegasus", tmp_path / "pegasus").eval()
    sines = "model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight"
    folder = change_tensors(tmp_path / "pegasus", **dict.fromkeys(sines))
    assert not set(sines) & dict(file_tensors(folder)).keys()
    loaded = load_model(folder)
    for name in sines:
        found = loaded.state_dict()[name]
        assert torch.equal(found, original.state_dict()[name])
        assert float(found[1, 0]) == pytest.approx(math.sin(1))
    assert torch.equal(logits(loaded), logits(original))


def test_learned_positions_must_be_in_the_files(tmp_path: Path) -> None:
    make_family("bart", tmp_path / "bart")
    name = "model.encoder.embed_positions.weight"
    with pytest.raises(BadInput, match=f"missing tensors: {name}"):
        load_model(change_tensors(tmp_path / "bart", **{name: None}))


def test_a_tensor_of_older_versions_is_skipped(tmp_path: Path) -> None:
    """One of the first T5 checkpoints on the hub; other unexpected tensors are reported."""
    original = make_t5(own_head=False)
    folder = write_hub_folder(original, tmp_path / "model", "safetensors")
    left_over = torch.randn(32, 4)
    loaded = load_model(change_tensors(folder, **{CROSS_BIAS: left_over}))
    assert torch.equal(logits(loaded), logits(original))
    other = CROSS_BIAS.replace("block.0", "block.1")
    with pytest.raises(BadInput, match=rf"unexpected tensors: {other} \("):
        load_model(change_tensors(folder, **{other: left_over}))


def test_every_misfit_of_a_folder_is_reported_once(tmp_path: Path) -> None:
    folder = write_hub_folder(make_t5(), tmp_path / "model", "safetensors")
    change_tensors(
        folder,
        **{
            "lm_head.weight": None,
            "decoder.final_layer_norm.weight": torch.ones(31),
            "encoder.extra": torch.ones(1),
        },
    )
    with pytest.raises(BadInput) as raised:
        load_model(folder)
    assert str(raised.value).splitlines() == [
        f"{folder}: missing tensors: lm_head.weight (expected all tensors of the model). "
        "Hint: download the model again.",
        f"{folder}: unexpected tensors: encoder.extra (expected the tensors of the model). "
        "Hint: correct config.json; a layer may be missing.",
        f"{folder}: mismatched shapes: decoder.final_layer_norm.weight ([31] instead of [32]) "
        "(expected weights that fit config.json). Hint: correct config.json or download the model "
        "again.",
        "(3 problems in all)",
    ]


def test_a_model_is_filled_in_place_in_its_own_dtype() -> None:
    original, other = make_t5(), make_t5(seed=1).to(torch.bfloat16)
    memory = {name: tensor.data_ptr() for name, tensor in other.state_dict().items()}
    misfits = load_state_dict(other, original.state_dict().items())
    assert not any(misfits.values())
    for name, tensor in other.state_dict().items():
        assert tensor.data_ptr() == memory[name]
        assert torch.equal(tensor, original.state_dict()[name].to(torch.bfloat16)), name
    assert saved_names(other).keys() == saved_names(original).keys()


@pytest.mark.parametrize(
    "content", [b"", b"broken", b"version https://git-lfs.github.com/spec/v1\n"]
)
@pytest.mark.parametrize("layout", ["safetensors", "bin"])
def test_an_invalid_weight_file_is_reported(tmp_path: Path, layout: str, content: bytes) -> None:
    folder = write_hub_folder(make_t5(), tmp_path / "model", layout)
    (path,) = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
    path.write_bytes(content)
    with pytest.raises(BadInput, match=rf"^{folder}: .* \(expected loadable weights"):
        load_model(folder)


@pytest.mark.parametrize("content", [[torch.ones(2)], {"lm_head.weight": 3}, {"epoch": 3}])
def test_a_pickle_without_tensors_is_reported(tmp_path: Path, content: Any) -> None:
    folder = write_hub_folder(make_t5(), tmp_path / "model", "bin")
    torch.save(content, folder / "pytorch_model.bin")
    with pytest.raises(BadInput, match=rf"^{folder}: .* \(expected "):
        load_model(folder)


@pytest.mark.parametrize(
    "index", ["", "[]", "{}", '{"weight_map": ["a"]}', '{"weight_map": {"a": "gone.safetensors"}}']
)
def test_an_invalid_index_is_reported(tmp_path: Path, index: str) -> None:
    folder = write_hub_folder(make_t5(), tmp_path / "model", "sharded-safetensors")
    (folder / INDEX).write_text(index)
    with pytest.raises(BadInput, match=rf"^{folder}: .* \(expected loadable weights"):
        load_model(folder)
