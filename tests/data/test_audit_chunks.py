"""The audit reads many records at once; its report does not show it."""

from pathlib import Path

import pytest
from test_audit import EVAL, TRAIN, audit
from vocabularies import KINDS

from workflow.data import token_writer


@pytest.mark.parametrize("kind", ["t5", "byte_level", "wordpiece", "mbart50", "nllb"])
def test_a_report_does_not_depend_on_the_parts_that_are_read_at_once(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record at a time; the next one is decoded while the tokenizer is asked about this one."""
    tokenizer = KINDS[kind](tmp_path / kind)
    odd = [{"prompt": f"{chr(code)} {chr(code)}\n", "completion": "no"} for code in range(33, 400)]
    data = {"train": [*TRAIN, *odd], "eval": EVAL}
    whole = audit(tmp_path, tokenizer, data)
    monkeypatch.setattr(token_writer, "CHUNK", 1)
    assert audit(tmp_path, tokenizer, data) == whole
