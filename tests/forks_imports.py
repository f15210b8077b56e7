"""Imports of the process that forks.py forks: everything that any job imports."""

from importlib import import_module

from workflow.core.imports import importing

with importing():
    for name in (
        "pytest",  # for multiprocessing imports the main module in each fork
        "rouge_score.rouge_scorer",
        "sacrebleu",
        "scipy.stats",
        "sklearn.metrics",
        "torch.distributed.run",
        "transformers.models.auto.modeling_auto",
        "transformers.models.auto.tokenization_auto",
        "transformers.models.t5.modeling_t5",
        "workflow.cli.run",
        "workflow.training.plan",
        "workflow.training.loop",
    ):
        import_module(name)
    from workflow.training.engines.deepspeed import import_deepspeed

    import_deepspeed()

for name in ("workflow.tuning.lora", "workflow.tuning.prompts"):  # of which jobs import one later
    import_module(name)
