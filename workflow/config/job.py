"""The job as one frozen dataclass: what can be asked for, with help and defaults."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from workflow.config.field_types import (
    any_of,
    boolean,
    choice,
    integer,
    mapping,
    memory,
    number,
    or_auto,
    several,
    template,
    text,
    texts,
)
from workflow.config.flags import flag

GREEDY_BELOW = 0.01
"""Below this temperature decoding is greedy."""

# transformers' schedules that depend on the step alone; the two others wait for a metric.
SCHEDULES = (
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
    "cosine_with_min_lr",
    "cosine_warmup_with_min_lr",
    "warmup_stable_decay",
)
BEST_METRICS = {
    "seq2seq": (
        "loss", "perplexity", "token_accuracy", "exact_match", "normalized_exact_match", "rouge1",
        "rouge2", "rougeL", "rougeLsum", "rougeL_unicode", "bleu", "chrf",
    ),
    "clf": (
        "loss", "accuracy", "balanced_accuracy", "f1", "auc", "average_precision", "brier",
        "log_loss", "ece", "rmse", "mae", "pearson", "spearman",
    ),
}  # fmt: skip
TASK_DEFAULTS: dict[str, dict[str, Any]] = {
    "seq2seq": {"train_batch_size": 16, "truncation_side": "right"},
    "clf": {"train_batch_size": 32, "truncation_side": "middle"},
}
ONLY_FOR = {
    "seq2seq": (
        "max_target_length", "target_lang", "label_smoothing_factor", "max_new_tokens",
        "min_new_tokens", "temperature", "top_k", "top_p", "n_samples", "num_beams",
        "repetition_penalty", "no_repeat_ngram_size", "stop",
    ),
    "clf": ("template", "label_words", "target_min", "target_max"),
}  # fmt: skip
"""Flags that have a meaning for one task alone."""

_MODEL, _DATA, _RUN = "model (exactly one name)", "data", "run"
_TRAIN, _OPTIM = "training", "optimizer"
_PROCESSES = "processes and memory"
_EVAL, _DECODE, _SAVE = "evaluation", "decoding", "checkpoints and logs"


@dataclass(frozen=True)
class JobSpec:
    """One job.

    The types are those of a job made `complete`; before, None stands for what is yet to be derived
    from other flags, the data and the machine.
    """

    task: str

    model_init_name: str | None = flag(
        text(), None, _MODEL, "a folder in mount/models, as flan-t5-xxl or RUN/checkpoint-2000", "-"
    )
    model_init_path: str | None = flag(
        text(), None, _MODEL, "a local folder, or a Hugging Face hub name", "-"
    )
    model_pretrain_name: str | None = flag(
        text(), None, _MODEL, "the same as --model_init_path", "-"
    )
    dropout_rate: float | None = flag(
        number(0, below=1), None, _MODEL, "dropout while training", "the model's own"
    )

    data_name: str = flag(
        text(),
        "",
        _DATA,
        "X for mount/data/X.json or X.jsonl, a folder mount/data/X, or a path",
        "-",
    )
    eval_fraction: float | None = flag(
        number(0, below=1, above=True),
        None,
        _DATA,
        "share of the train records that are held out to evaluate on, of data without eval records",
        "-",
    )
    max_source_length: int = flag(
        integer(2), 1024, _DATA, "tokens of a prompt that the model sees; the rest is cut off"
    )
    max_target_length: int = flag(
        integer(2), 512, _DATA, "tokens of a completion that are learned; the rest is cut off"
    )

    truncation_side: str = flag(
        choice("right", "left", "middle"),
        None,
        _DATA,
        "where a prompt that is too long is cut",
        "right; clf middle",
    )
    template: str = flag(
        template("{input}"), "{input}", _DATA, "what clf makes of an input: text around {input}"
    )
    label_words: tuple[str, ...] = flag(
        several(2),
        ("no", "yes"),
        _DATA,
        "the words for --target_min and --target_max in clf",
        "no yes",
    )
    target_min: float = flag(number(), 0.0, _DATA, "the target that means no, in clf")
    target_max: float = flag(number(), 1.0, _DATA, "the target that means yes, in clf")
    source_lang: str | None = flag(
        text(), None, _DATA, "language of the prompts, for multilingual models", "the tokenizer's"
    )
    target_lang: str | None = flag(
        text(), None, _DATA, "language of the completions, for multilingual models",
        "the tokenizer's",
    )  # fmt: skip
    add_missing_tokens: bool = flag(
        boolean(), False, _DATA, "make characters that the vocabulary lacks tokens of the model"
    )

    training_run_name: str = flag(
        text(),
        None,
        _RUN,
        "folder of the run in mount/models",
        "MODEL_DATA_SEED, or _eval",
    )
    no_train: bool = flag(boolean(), False, _RUN, "only evaluate the model on the eval records")
    audit: bool = flag(boolean(), False, _RUN, "only say what the data holds, and end")
    overwrite_output_dir: bool = flag(
        boolean(), False, _RUN, "remove an earlier run of this name, then begin"
    )
    resume_from_checkpoint: str | None = flag(
        text(),
        None,
        _RUN,
        "go on from another run's newest checkpoint; none: never go on, be refused instead",
        "the run's own newest",
    )
    seed: int = flag(
        integer(0, 2**32 - 1), 0, _RUN, "of the order of the data, dropout and sampling"
    )

    max_steps: int = flag(integer(1), None, _TRAIN, "optimizer steps", "from --num_train_epochs")
    num_train_epochs: float | None = flag(
        number(0, above=True), None, _TRAIN, "passes over the train records", "4"
    )
    train_batch_size: int = flag(
        integer(1), None, _TRAIN, "examples per step over all devices together", "16; clf 32"
    )
    gradient_accumulation_steps: int = flag(
        integer(1), 1, _TRAIN, "batches of --train_batch_size per optimizer step"
    )
    micro_batch_tokens: int = flag(
        or_auto(integer(1)),
        None,
        _TRAIN,
        "padded positions (source + target) computed at once: bounds memory, changes no result",
        "auto",
    )
    label_smoothing_factor: float = flag(
        number(0, below=1), 0.0, _TRAIN, "share of each target spread over the vocabulary"
    )
    bf16: bool = flag(
        or_auto(boolean()),
        None,
        _TRAIN,
        "compute in bfloat16 on float32 master weights; auto: where the hardware does it fast",
        "auto",
    )
    gradient_checkpointing: bool = flag(
        boolean(), False, _TRAIN, "recompute activations: less memory, about a third more time"
    )

    zero_stage: int | None = flag(
        or_auto(integer(1, 3)),
        None,
        _PROCESSES,
        "what processes divide: 1 the optimizer's state, 2 gradients too, 3 parameters too; "
        "changes no result",
        "auto: the least that fits",
    )
    offload: str | None = flag(
        or_auto(choice("none", "optimizer", "all")),
        None,
        _PROCESSES,
        "what rests in the host's memory: none, optimizer, or all (parameters too); changes no "
        "result",
        "auto: none if that fits",
    )
    deepspeed: str | None = flag(
        text(),
        None,
        _PROCESSES,
        "a JSON file with your own zero_optimization and communication settings",
        "-",
    )

    optim: str = flag(
        choice("adamw_torch", "adafactor"), "adamw_torch", _OPTIM, "adamw_torch or adafactor"
    )
    learning_rate: float = flag(
        number(0, above=True), None, _OPTIM, "peak learning rate", "1e-4; adafactor 1e-3"
    )
    lr_scheduler_type: str = flag(
        choice(*SCHEDULES),
        None,
        _OPTIM,
        f"schedule of transformers by name: {', '.join(SCHEDULES)}",
        "linear; adafactor constant",
    )
    lr_scheduler_kwargs: dict[str, Any] | None = flag(
        mapping(), None, _OPTIM, 'what the schedule takes besides, as {"num_cycles": 2}', "-"
    )
    warmup_steps: float = flag(
        number(0), None, _OPTIM, "steps of linear warm-up; below 1: share of the run", "0.05"
    )
    weight_decay: float = flag(number(0), 0.01, _OPTIM, "decay of all but norms and biases")
    max_grad_norm: float = flag(
        number(0), 1.0, _OPTIM, "the gradient is scaled down to this norm; 0: never"
    )

    eval_steps: int = flag(
        integer(1),
        None,
        _EVAL,
        "evaluate every N steps, and after the last",
        "a quarter of the run",
    )
    eval_on_start: bool = flag(boolean(), True, _EVAL, "evaluate before the first step too")
    metric: str | None = flag(
        text(), None, _EVAL, "FILE.py:FUNCTION, a metric of yours: f(records, predictions)", "-"
    )
    eval_batch_size: int | None = flag(
        or_auto(integer(1)),
        None,
        _EVAL,
        "eval records computed at once; auto: by their tokens",
        "auto",
    )
    max_new_tokens: int = flag(
        integer(1), None, _DECODE, "longest generation", "the longest completion in the data"
    )
    min_new_tokens: int = flag(integer(0), 0, _DECODE, "shortest generation")
    temperature: float = flag(
        number(0), 0.001, _DECODE, f"of sampling; below {GREEDY_BELOW} the likeliest token is taken"
    )
    top_k: int | None = flag(
        integer(1), None, _DECODE, "draw from the K likeliest tokens only", "all"
    )
    top_p: float | None = flag(
        number(0, below=1, above=True),
        None,
        _DECODE,
        "draw from the likeliest tokens that together have this probability",
        "all",
    )
    n_samples: int = flag(
        integer(1), 1, _DECODE, "completions generated for each eval record (with beams: the best)"
    )
    num_beams: int = flag(integer(1), 1, _DECODE, "beams of a beam search; 1: none")
    repetition_penalty: float = flag(
        number(0, above=True), 1.0, _DECODE, "divides the scores of tokens that stand already"
    )
    no_repeat_ngram_size: int = flag(
        integer(0), 0, _DECODE, "no N tokens in a row occur twice in a completion; 0: they may"
    )
    stop: tuple[str, ...] = flag(
        texts(), (), _DECODE, "text that ends a completion, or a JSON list of such", "-"
    )

    save_steps: int = flag(
        integer(1),
        None,
        _SAVE,
        "write a checkpoint every N steps and after the last",
        "a quarter of the run",
    )
    save_seconds: float | None = flag(
        number(0, above=True), None, _SAVE, "write one after so many seconds without, too", "-"
    )
    save_total_limit: int = flag(
        integer(1), 2, _SAVE, "newest checkpoints to keep; the best is kept besides"
    )
    metric_for_best_model: str = flag(
        choice(*dict.fromkeys(name for names in BEST_METRICS.values() for name in names)),
        "loss",
        _SAVE,
        f"what the best checkpoint is best in: {', '.join(BEST_METRICS['seq2seq'])}; "
        f"in clf {', '.join(BEST_METRICS['clf'])}",
    )
    logging_steps: int = flag(integer(1), 10, _SAVE, "log every N steps")
    report_to: tuple[str, ...] = flag(
        any_of("tensorboard", "wandb"),
        (),
        _SAVE,
        "tell the numbers to tensorboard, wandb, or both; changes no result",
        "none",
    )

    @property
    def batch_size(self) -> int:
        """Examples of one optimizer step."""
        return self.train_batch_size * self.gradient_accumulation_steps

    @property
    def greedy(self) -> bool:
        """Whether nothing is drawn: the likeliest token, or the best beam, is taken."""
        return self.temperature < GREEDY_BELOW

    @property
    def model(self) -> str:
        """The model as the user named it."""
        name = self.model_init_name or self.model_init_path or self.model_pretrain_name
        if name is None:
            raise ValueError("a job has a model")
        return name


@dataclass(frozen=True)
class LaunchOptions:
    """Where a job is run from: flags that are not part of the job itself."""

    num_processes: int | None = flag(
        integer(1), None, _PROCESSES, "processes on this machine", "one a GPU, else 1"
    )
    local_rank: int | None = flag(
        integer(-1), None, _PROCESSES, "accepted from launchers, which say it otherwise too", "-"
    )
    dry_run: bool = flag(
        boolean(), False, _PROCESSES, "only say what memory the job takes, and what fits"
    )
    plan_gpus: int | None = flag(
        integer(1), None, _PROCESSES, "GPUs a node to plan for, with --dry_run", "this machine's"
    )
    plan_gpu_memory: float | None = flag(
        memory(), None, _PROCESSES, "memory of each of them, as 80GB", "-"
    )
    plan_host_memory: float | None = flag(
        memory(), None, _PROCESSES, "memory of each node, as 512GB", "as much as is asked for"
    )
    plan_nodes: int | None = flag(integer(1), None, _PROCESSES, "nodes to plan for", "1")
    mount: str | None = flag(
        text(), None, _RUN, "holds data/ and models/", "$WORKFLOW_MOUNT, /model_mount, or ./mount"
    )
    config: str | None = flag(
        text(),
        None,
        _RUN,
        "a JSON file of these flags; the command line overrides it",
        "-",
    )


def due_every_quarter(max_steps: int) -> int:
    return math.ceil(max_steps / 4)


def resolve_defaults(
    spec: JobSpec,
    run_name: str,
    train_count: int,
    longest_target: int,
    fast_bf16: bool,
) -> JobSpec:
    """Fill in what was left to the data and the machine, but for what depends on memory.

    Every other field that the job uses is then a plain value, and the same for the same command.

    Args:
        run_name: the user's, or what the run is called without one.
        train_count: number of train records (0 where the job only evaluates).
        longest_target: tokens of the longest completion, after the cut.
        fast_bf16: whether the hardware multiplies bfloat16 matrices fast.
    """
    if spec.task == "seq2seq":
        new_tokens = spec.max_new_tokens or max(longest_target, spec.min_new_tokens)
        spec = dataclasses.replace(spec, max_new_tokens=new_tokens)
    spec = dataclasses.replace(
        spec,
        training_run_name=run_name,
        bf16=fast_bf16 if spec.bf16 is None else spec.bf16,
    )
    if spec.no_train:
        return spec
    epochs = 4.0 if spec.num_train_epochs is None else spec.num_train_epochs
    max_steps = spec.max_steps or max(1, math.ceil(epochs * train_count / spec.batch_size))
    adafactor = spec.optim == "adafactor"
    schedule = spec.lr_scheduler_type or ("constant" if adafactor else "linear")
    warmup = 0.05 if spec.warmup_steps is None else spec.warmup_steps
    warmup_steps = math.ceil(warmup * max_steps) if warmup < 1 else round(warmup)
    # A warm-up begins at a rate of zero: a run that is nothing else would learn nothing.
    warmup_steps = min(warmup_steps, max_steps - 1)
    if schedule == "constant":
        warmup_steps = 0
    return dataclasses.replace(
        spec,
        max_steps=max_steps,
        num_train_epochs=None,
        learning_rate=spec.learning_rate or (1e-3 if adafactor else 1e-4),
        lr_scheduler_type=schedule,
        warmup_steps=warmup_steps,
        eval_steps=spec.eval_steps or due_every_quarter(max_steps),
        save_steps=spec.save_steps or due_every_quarter(max_steps),
    )
