"""What can be asked for: the flags of a job, each with all that it means."""

from dataclasses import MISSING, dataclass
from functools import partial
from typing import Any

from workflow.config.field_types import (
    any_of,
    boolean,
    choice,
    integer,
    mapping,
    number,
    or_auto,
    several,
    template,
    text,
    texts,
)
from workflow.config.flags import flag
from workflow.config.task_specs import BEST_METRICS, TASK_SPECS, shown_default

GREEDY_BELOW = 0.01
"""Below this temperature decoding is greedy."""

# transformers' schedules that depend on the step alone; the two others wait for a metric.
SCHEDULES = (
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup",
    "inverse_sqrt", "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay",
)  # fmt: skip
_BEST = {name: ", ".join(task.best_metrics) for name, task in TASK_SPECS.items()}

RUN, PROCESSES = "run", "processes and memory"
"""Groups of flags in the help."""
_model = partial(flag, "model (exactly one name)")
_data = partial(flag, "data")
_seq2seq_data = partial(_data, only_for="seq2seq")
_clf_data = partial(_data, only_for="clf")
_run = partial(flag, RUN)
_start = partial(_run, decides="start")
_training = partial(flag, "training")
_processes = partial(flag, PROCESSES, decides="course")
_optimizer = partial(flag, "optimizer")
_evaluation = partial(flag, "evaluation")
_decoding = partial(flag, "decoding", only_for="seq2seq")
_saving = partial(flag, "checkpoints and logs", decides="course")


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """A job as it was asked for; None stands for what is still to be derived."""

    task: str

    model_init_name: str | None = _model(
        text(), None, "a folder in mount/models, as flan-t5-xxl or RUN/checkpoint-2000", "-"
    )
    model_init_path: str | None = _model(
        text(), None, "a local folder, or a Hugging Face hub name", "-"
    )
    model_pretrain_name: str | None = _model(text(), None, "the same as --model_init_path", "-")
    dropout_rate: float | None = _model(
        number(0, below=1), None, "dropout while training", "the model's own"
    )

    data_name: str = _data(
        text(), "", "X for mount/data/X.json or X.jsonl, a folder mount/data/X, or a path", "-"
    )
    eval_fraction: float | None = _data(
        number(0, below=1, above=True),
        None,
        "share of the train records that are held out to evaluate on, of data without eval records",
        "-",
    )
    max_source_length: int = _data(
        integer(2), 1024, "tokens of a prompt that the model sees; the rest is cut off"
    )
    max_target_length: int = _seq2seq_data(
        integer(2), 512, "tokens of a completion that are learned; the rest is cut off"
    )
    truncation_side: str = _data(
        choice("right", "left", "middle"),
        MISSING,
        "where a prompt that is too long is cut",
        shown_default("truncation_side"),
    )
    template: str = _clf_data(
        template("{input}"), "{input}", "what clf makes of an input: text around {input}"
    )
    label_words: tuple[str, ...] = _clf_data(
        several(2), ("no", "yes"), "the words for --target_min and --target_max in clf", "no yes"
    )
    target_min: float = _clf_data(number(), 0.0, "the target that means no, in clf")
    target_max: float = _clf_data(number(), 1.0, "the target that means yes, in clf")
    source_lang: str | None = _data(
        text(), None, "language of the prompts, for multilingual models", "the tokenizer's"
    )
    target_lang: str | None = _seq2seq_data(
        text(), None, "language of the completions, for multilingual models", "the tokenizer's"
    )
    add_missing_tokens: bool = _data(
        boolean(), False, "make characters that the vocabulary lacks tokens of the model"
    )

    training_run_name: str | None = _run(
        text(),
        None,
        "folder of the run in mount/models",
        "MODEL_DATA_SEED, or _eval",
        decides="name",
    )
    no_train: bool = _run(boolean(), False, "only evaluate the model on the eval records")
    audit: bool = _start(boolean(), False, "only say what the data holds, and end")
    overwrite_output_dir: bool = _start(
        boolean(), False, "remove an earlier run of this name, then begin"
    )
    resume_from_checkpoint: str | None = _start(
        text(),
        None,
        "go on from another run's newest checkpoint; none: never go on, be refused instead",
        "the run's own newest",
    )
    seed: int = _run(integer(0, 2**32 - 1), 0, "of the order of the data, dropout and sampling")

    max_steps: int | None = _training(
        integer(1), None, "optimizer steps", "from --num_train_epochs"
    )
    num_train_epochs: float | None = _training(
        number(0, above=True), None, "passes over the train records", "4"
    )
    train_batch_size: int = _training(
        integer(1),
        MISSING,
        "examples per step over all devices together",
        shown_default("train_batch_size"),
    )
    gradient_accumulation_steps: int = _training(
        integer(1), 1, "batches of --train_batch_size per optimizer step"
    )
    micro_batch_tokens: int | None = _training(
        or_auto(integer(1)),
        None,
        "padded positions (source + target) computed at once: bounds memory, changes no result",
        "auto",
        decides="course",
    )
    label_smoothing_factor: float = _training(
        number(0, below=1),
        0.0,
        "share of each target spread over the vocabulary",
        only_for="seq2seq",
    )
    bf16: bool | None = _training(
        or_auto(boolean()),
        None,
        "compute in bfloat16 on float32 master weights; auto: where the hardware does it fast",
        "auto",
    )
    gradient_checkpointing: bool = _training(
        boolean(),
        False,
        "recompute activations: less memory, about a third more time",
        decides="course",
    )

    zero_stage: int | None = _processes(
        or_auto(integer(1, 3)),
        None,
        "what processes divide: 1 the optimizer's state, 2 gradients too, 3 parameters too; "
        "changes no result",
        "auto: the least that fits",
    )
    offload: str | None = _processes(
        or_auto(choice("none", "optimizer", "all")),
        None,
        "what rests in the host's memory: none, optimizer, or all (parameters too); changes no "
        "result",
        "auto: none if that fits",
    )
    deepspeed: str | None = _processes(
        text(), None, "a JSON file with your own zero_optimization and communication settings", "-"
    )

    optim: str = _optimizer(
        choice("adamw_torch", "adafactor"), "adamw_torch", "adamw_torch or adafactor"
    )
    learning_rate: float | None = _optimizer(
        number(0, above=True), None, "peak learning rate", "1e-4; adafactor 1e-3"
    )
    lr_scheduler_type: str | None = _optimizer(
        choice(*SCHEDULES),
        None,
        f"schedule of transformers by name: {', '.join(SCHEDULES)}",
        "linear; adafactor constant",
    )
    lr_scheduler_kwargs: dict[str, Any] | None = _optimizer(
        mapping(), None, 'what the schedule takes besides, as {"num_cycles": 2}', "-"
    )
    warmup_steps: float | None = _optimizer(
        number(0), None, "steps of linear warm-up; below 1: share of the run", "0.05"
    )
    weight_decay: float = _optimizer(number(0), 0.01, "decay of all but norms and biases")
    max_grad_norm: float = _optimizer(
        number(0), 1.0, "the gradient is scaled down to this norm; 0: never"
    )

    eval_steps: int | None = _evaluation(
        integer(1), None, "evaluate every N steps, and after the last", "a quarter of the run"
    )
    eval_on_start: bool = _evaluation(boolean(), True, "evaluate before the first step too")
    metric: str | None = _evaluation(
        text(), None, "FILE.py:FUNCTION, a metric of yours: f(records, predictions)", "-"
    )
    eval_batch_size: int | None = _evaluation(
        or_auto(integer(1)),
        None,
        "eval records computed at once; auto: by their tokens",
        "auto",
        decides="course",
    )

    max_new_tokens: int | None = _decoding(
        integer(1), None, "longest generation", "the longest completion in the data"
    )
    min_new_tokens: int = _decoding(integer(0), 0, "shortest generation")
    temperature: float = _decoding(
        number(0), 0.001, f"of sampling; below {GREEDY_BELOW} the likeliest token is taken"
    )
    top_k: int | None = _decoding(integer(1), None, "draw from the K likeliest tokens only", "all")
    top_p: float | None = _decoding(
        number(0, below=1, above=True),
        None,
        "draw from the likeliest tokens that together have this probability",
        "all",
    )
    n_samples: int = _decoding(
        integer(1), 1, "completions generated for each eval record (with beams: the best)"
    )
    num_beams: int = _decoding(integer(1), 1, "beams of a beam search; 1: none")
    repetition_penalty: float = _decoding(
        number(0, above=True), 1.0, "divides the scores of tokens that stand already"
    )
    no_repeat_ngram_size: int = _decoding(
        integer(0), 0, "no N tokens in a row occur twice in a completion; 0: they may"
    )
    stop: tuple[str, ...] = _decoding(
        texts(), (), "text that ends a completion, or a JSON list of such", "-"
    )

    save_steps: int | None = _saving(
        integer(1),
        None,
        "write a checkpoint every N steps and after the last",
        "a quarter of the run",
    )
    save_seconds: float | None = _saving(
        number(0, above=True), None, "write one after so many seconds without, too", "-"
    )
    save_total_limit: int = _saving(
        integer(1), 2, "newest checkpoints to keep; the best is kept besides"
    )
    metric_for_best_model: str = _saving(
        choice(*BEST_METRICS),
        "loss",
        f"what the best checkpoint is best in: {_BEST['seq2seq']}; in clf {_BEST['clf']}",
        decides="result",
    )
    logging_steps: int = _saving(integer(1), 10, "log every N steps")
    report_to: tuple[str, ...] = _saving(
        any_of("tensorboard", "wandb"),
        (),
        "tell the numbers to tensorboard, wandb, or both; changes no result",
        "none",
        decides="name",
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
