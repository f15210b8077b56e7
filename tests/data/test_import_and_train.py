"""Imported files are trained on; formats that need other packages are read from real files."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from forks import Fork, finish, run_script

from workflow.cli.main import main
from workflow.runs.mount import Mount
from workflow.runs.status import read_status

SPREADSHEET = "\r\n".join((
    "Nr;question;answer",
    '1;"add one; to 4 7";"4 8\nand nothing ""more"" or """',
    '2;"say ""Käse""\r\nand “Brötchen”";Käse, Brötchen',
    '3;"|\t,";',
    "4;plain;café",
))  # fmt: skip
RECORDS = [
    {"prompt": "add one; to 4 7", "completion": '4 8\nand nothing "more" or "'},
    {"prompt": 'say "Käse"\r\nand “Brötchen”', "completion": "Käse, Brötchen"},
    {"prompt": "|\t,", "completion": ""},
    {"prompt": "plain", "completion": "café"},
]


def imported(folder: Path, *names: str) -> Any:
    words = ["import", *(str(folder / name) for name in names), "new", "--overwrite"]
    if main([*words, "--mount", str(folder / "mount")]):
        return None
    return json.loads((folder / "mount" / "data" / "new.json").read_text())


def test_spreadsheets_are_imported_and_trained_on(mount: Mount) -> None:
    """Cells have quotes, newlines and semicolons; one file has a BOM, one is Windows-1252."""
    folder = mount.root.parent
    (folder / "train.csv").write_bytes(b"\xef\xbb\xbf" + SPREADSHEET.encode())
    (folder / "validation.csv").write_bytes(SPREADSHEET.encode("cp1252"))
    assert imported(folder, "train.csv", "validation.csv") == {"train": RECORDS, "eval": RECORDS}
    words = ["--model_init_name", "small", "--data_name", "new", "--max_steps", "2", "--mount"]
    words += [str(mount.root), "--max_new_tokens", "2", "--bf16", "false", "--device", "cpu"]
    (done,) = finish([Fork(run_script, ROOT / "seq2seq.py", *words)])
    assert done.returncode == 0, done.stderr
    run = mount.models / "small_new_0"
    status = read_status(run)
    assert (status["state"], status["step"]) == ("done", 2)
    (written,) = run.glob("*_step=2.json")
    predictions = json.loads(written.read_text())
    assert [one["orig_d"] for one in predictions] == RECORDS


# --- formats that need a package -----------------------------------------------------------------


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"question": "2?", "answer": answer, "n": 1.5} for answer in ("4", None, "", "5")]
    chat = [{"role": "user", "content": "é"}, {"role": "assistant", "content": "b"}]
    for name, table in (("rows", rows), ("chats", [{"messages": chat}])):
        parquet.write_table(pyarrow.Table.from_pylist(table), tmp_path / f"{name}.parquet")
    made = [{"prompt": "2?", "completion": answer} for answer in ("4", "", "5")]
    assert imported(tmp_path, "rows.parquet") == {"train": made}
    (line,) = (tmp_path / "mount/data/new.dropped.jsonl").read_text().splitlines()
    assert json.loads(line) | {"file": ""} == {
        "file": "", "place": "[1]", "reason": "no answer", "record": rows[1],
    }  # fmt: skip
    assert imported(tmp_path, "chats.parquet") == {"train": [{"messages": chat}]}


def test_a_folder_that_datasets_saved(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    for split, count in (("train", 3), ("validation", 1)):
        folder = tmp_path / "saved" / split
        folder.mkdir(parents=True)
        table = pyarrow.table({"text": ["so"] * count, "label": [0, 1, -1][:count]})
        with (
            open(folder / "data-00000-of-00001.arrow", "wb") as file,
            pyarrow.ipc.new_stream(file, table.schema) as stream,
        ):
            stream.write_table(table)
        features = {"label": {"names": ["bad", "good"], "_type": "ClassLabel"}}
        (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    assert imported(tmp_path, "saved") == {
        "train": [{"input": "so", "label": label} for label in ("bad", "good")],
        "eval": [{"input": "so", "label": "bad"}],
    }


def test_zstd(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compress = pytest.importorskip("zstandard").ZstdCompressor().compress
    lines = "".join(f'{{"question": "{n}", "answer": "ä"}}\n' for n in range(100)).encode()
    made = [{"prompt": str(n), "completion": "ä"} for n in range(100)]
    (tmp_path / "a.jsonl.zst").write_bytes(compress(lines) + compress(lines))
    assert imported(tmp_path, "a.jsonl.zst") == {"train": made * 2}
    (tmp_path / "a.csv.zst").write_bytes(compress("question;answer\né;\n".encode("cp1252")))
    assert imported(tmp_path, "a.csv.zst") == {"train": [{"prompt": "é", "completion": ""}]}
    (tmp_path / "cut.jsonl.zst").write_bytes((compress(lines) + compress(lines))[:-9])
    assert imported(tmp_path, "cut.jsonl.zst") is None
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"{tmp_path}/cut.jsonl.zst: Compressed file ended before the end of its last frame "
        "(expected an intact file). Hint: write it again."
    )
