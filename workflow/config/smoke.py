"""--smoke: the whole job on so little that it takes seconds."""

import dataclasses
from typing import Any

from workflow.config.request import JobRequest

RECORDS = 8
"""Records read of each split."""
STEPS, TOKENS = 2, 16


def reduced(job: JobRequest) -> JobRequest:
    """The job; if it is a smoke test, a small one that starts anew."""
    if not job.smoke:
        return job
    values: dict[str, Any] = {
        "overwrite_output_dir": True,
        "resume_from_checkpoint": None,
        "train_batch_size": min(job.train_batch_size, RECORDS),
        "gradient_accumulation_steps": min(job.gradient_accumulation_steps, 2),
        "n_samples": min(job.n_samples, 2),
        "min_new_tokens": min(job.min_new_tokens, TOKENS),
    }
    if job.writes_texts:
        values["max_new_tokens"] = min(job.max_new_tokens or TOKENS, TOKENS)
    if not job.no_train:
        values |= {"max_steps": min(job.max_steps or STEPS, STEPS), "num_train_epochs": None}
        values |= {"eval_steps": STEPS, "save_steps": STEPS}
    return dataclasses.replace(job, **values)
