"""Jobs start fast: slow imports that are not needed yet are deferred."""

import json
import subprocess
import sys

from conftest import ROOT

from workflow.runs.mount import Mount

LATER = {"deepspeed", "sklearn", "sacrebleu", "rouge_score", "nltk", "pandas", "accelerate",
         "tensorboard", "wandb"}  # fmt: skip
"""Without scipy and torch._dynamo, of which transformers' modeling_utils imports parts itself."""

JOB = """
import gc, json, sys
from workflow.cli import run as cli
from workflow.core.imports import importing

with importing():
    from workflow.training import loop as train

def step(*arguments):
    frozen = gc.isenabled() and gc.get_freeze_count() > 0
    print(json.dumps([frozen, sorted({name.split(".")[0] for name in sys.modules})]))
    sys.exit()

train.add_gradients = step
cli.main("seq2seq", "")
"""


def test_nothing_unneeded_is_imported_before_the_first_step(mount: Mount) -> None:
    words = ["--mount", mount.root, "--model_init_name", "small", "--data_name", "sums"]
    words += ["--eval_on_start", "false", "--num_processes", "1"]
    command = [sys.executable, "-c", JOB, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    frozen, imported = json.loads(done.stdout)
    assert frozen
    assert "transformers" in imported
    assert not LATER & set(imported)
