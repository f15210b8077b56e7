"""A job begins soon: what is slow to import and not needed yet is not imported."""

import json
import subprocess
import sys

from conftest import ROOT

from workflow.runs.mount import Mount

LATER = {"deepspeed", "sklearn", "sacrebleu", "rouge_score", "nltk", "pandas", "accelerate",
         "tensorboard", "wandb"}  # fmt: skip
"""Of scipy and torch._dynamo, transformers' modeling_utils imports some itself."""

JOB = """
import gc, json, sys
from workflow.cli import run as cli
from workflow.training import loop as train

def step(*arguments):
    frozen = gc.isenabled() and gc.get_freeze_count() > 0
    print(json.dumps([frozen, sorted({name.split(".")[0] for name in sys.modules})]))
    sys.exit()

train.train_step = step
cli.main("seq2seq", "")
"""


def test_before_the_first_step_nothing_is_imported_that_it_does_not_need(mount: Mount) -> None:
    words = ["--mount", mount.root, "--model_init_name", "small", "--data_name", "sums"]
    words += ["--eval_on_start", "false", "--num_processes", "1"]
    command = [sys.executable, "-c", JOB, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    frozen, imported = json.loads(done.stdout)
    assert frozen
    assert "transformers" in imported
    assert not LATER & set(imported)
