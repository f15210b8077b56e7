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
        text(), "a folder in mount/models, as flan-t5-xxl or RUN/checkpoint-2000 [-]"
    )
    model_init_path: str | None = _model(text(), "a local folder, or a Hugging Face hub name [-]")
    model_pretrain_name: str | None = _model(text(), "the same as --model_init_path [-]")
    dropout_rate: float | None = _model(
        number(0, below=1), "dropout while training [the model's own]"
    )

    data_name: str = _data(
        text(), "X for mount/data/X.json or X.jsonl, a folder mount/data/X, or a path [-]", ""
    )
    eval_fraction: float | None = _data(
        number(0, below=1, above=True),
        "share of the train records that are held out to evaluate on, of data without eval "
        "records [-]",
    )
    max_source_length: int = _data(
        integer(2), "tokens of a prompt that the model sees; the rest is cut off", 1024
    )
    max_target_length: int = _seq2seq_data(
        integer(2), "tokens of a completion that are learned; the rest is cut off", 512
    )
    truncation_side: str = _data(
        choice("right", "left", "middle"),
        f"where a prompt that is too long is cut [{shown_default('truncation_side')}]",
        MISSING,
    )
    template: str = _clf_data(
        template("{input}"), "what clf makes of an input: text around {input}", "{input}"
    )
    label_words: tuple[str, ...] = _clf_data(
        several(2), "the words for --target_min and --target_max in clf [no yes]", ("no", "yes")
    )
    target_min: float = _clf_data(number(), "the target that means no, in clf", 0.0)
    target_max: float = _clf_data(number(), "the target that means yes, in clf", 1.0)
    source_lang: str | None = _data(
        text(), "language of the prompts, for multilingual models [the tokenizer's]"
    )
    target_lang: str | None = _seq2seq_data(
        text(), "language of the completions, for multilingual models [the tokenizer's]"
    )
    add_missing_tokens: bool = _data(
        boolean(), "make characters that the vocabulary lacks tokens of the model", False
    )

    training_run_name: str | None = _run(
        text(), "folder of the run in mount/models [MODEL_DATA_SEED, or _eval]", decides="name"
    )
    no_train: bool = _run(boolean(), "only evaluate the model on the eval records", False)
    audit: bool = _start(boolean(), "only say what the data holds, and end", False)
    overwrite_output_dir: bool = _start(
        boolean(), "remove an earlier run of this name, then begin", False
    )
    resume_from_checkpoint: str | None = _start(
        text(),
        "go on from another run's newest checkpoint; none: never go on, be refused instead "
        "[the run's own newest]",
    )
    seed: int = _run(integer(0, 2**32 - 1), "of the order of the data, dropout and sampling", 0)

    max_steps: int | None = _training(integer(1), "optimizer steps [from --num_train_epochs]")
    num_train_epochs: float | None = _training(
        number(0, above=True), "passes over the train records [4]"
    )
    train_batch_size: int = _training(
        integer(1),
        f"examples per step over all devices together [{shown_default('train_batch_size')}]",
        MISSING,
    )
    gradient_accumulation_steps: int = _training(
        integer(1), "batches of --train_batch_size per optimizer step", 1
    )
    micro_batch_tokens: int | None = _training(
        or_auto(integer(1)),
        "padded positions (source + target) computed at once: bounds memory, changes no result "
        "[auto]",
        decides="course",
    )
    label_smoothing_factor: float = _training(
        number(0, below=1),
        "share of each target spread over the vocabulary",
        0.0,
        only_for="seq2seq",
    )
    bf16: bool | None = _training(
        or_auto(boolean()),
        "compute in bfloat16 on float32 master weights; auto: where the hardware does it fast "
        "[auto]",
    )
    gradient_checkpointing: bool = _training(
        boolean(),
        "recompute activations: less memory, about a third more time",
        False,
        decides="course",
    )

    zero_stage: int | None = _processes(
        or_auto(integer(1, 3)),
        "what processes divide: 1 the optimizer's state, 2 gradients too, 3 parameters too; "
        "changes no result [auto: the least that fits]",
    )
    offload: str | None = _processes(
        or_auto(choice("none", "optimizer", "all")),
        "what rests in the host's memory: none, optimizer, or all (parameters too); changes no "
        "result [auto: none if that fits]",
    )
    deepspeed: str | None = _processes(
        text(), "a JSON file with your own zero_optimization and communication settings [-]"
    )

    optim: str = _optimizer(
        choice("adamw_torch", "adafactor"), "adamw_torch or adafactor", "adamw_torch"
    )
    learning_rate: float | None = _optimizer(
        number(0, above=True), "peak learning rate [1e-4; adafactor 1e-3]"
    )
    lr_scheduler_type: str | None = _optimizer(
        choice(*SCHEDULES),
        f"schedule of transformers by name: {', '.join(SCHEDULES)} [linear; adafactor constant]",
    )
    lr_scheduler_kwargs: dict[str, Any] | None = _optimizer(
        mapping(), 'what the schedule takes besides, as {"num_cycles": 2} [-]'
    )
    warmup_steps: float | None = _optimizer(
        number(0), "steps of linear warm-up; below 1: share of the run [0.05]"
    )
    weight_decay: float = _optimizer(number(0), "decay of all but norms and biases", 0.01)
    max_grad_norm: float = _optimizer(
        number(0), "the gradient is scaled down to this norm; 0: never", 1.0
    )

    eval_steps: int | None = _evaluation(
        integer(1), "evaluate every N steps, and after the last [a quarter of the run]"
    )
    eval_on_start: bool = _evaluation(boolean(), "evaluate before the first step too", True)
    metric: str | None = _evaluation(
        text(), "FILE.py:FUNCTION, a metric of yours: f(records, predictions) [-]"
    )
    eval_batch_size: int | None = _evaluation(
        or_auto(integer(1)),
        "eval records computed at once; auto: by their tokens [auto]",
        decides="course",
    )

    max_new_tokens: int | None = _decoding(
        integer(1), "longest generation [the longest completion in the data]"
    )
    min_new_tokens: int = _decoding(integer(0), "shortest generation", 0)
    temperature: float = _decoding(
        number(0), f"of sampling; below {GREEDY_BELOW} the likeliest token is taken", 0.001
    )
    top_k: int | None = _decoding(integer(1), "draw from the K likeliest tokens only [all]")
    top_p: float | None = _decoding(
        number(0, below=1, above=True),
        "draw from the likeliest tokens that together have this probability [all]",
    )
    n_samples: int = _decoding(
        integer(1), "completions generated for each eval record (with beams: the best)", 1
    )
    num_beams: int = _decoding(integer(1), "beams of a beam search; 1: none", 1)
    repetition_penalty: float = _decoding(
        number(0, above=True), "divides the scores of tokens that stand already", 1.0
    )
    no_repeat_ngram_size: int = _decoding(
        integer(0), "no N tokens in a row occur twice in a completion; 0: they may", 0
    )
    stop: tuple[str, ...] = _decoding(
        texts(), "text that ends a completion, or a JSON list of such [-]", ()
    )

    save_steps: int | None = _saving(
        integer(1), "write a checkpoint every N steps and after the last [a quarter of the run]"
    )
    save_seconds: float | None = _saving(
        number(0, above=True), "write one after so many seconds without, too [-]"
    )
    save_total_limit: int = _saving(
        integer(1), "newest checkpoints to keep; the best is kept besides", 2
    )
    metric_for_best_model: str = _saving(
        choice(*BEST_METRICS),
        f"what the best checkpoint is best in: {_BEST['seq2seq']}; in clf {_BEST['clf']}",
        "loss",
        decides="result",
    )
    logging_steps: int = _saving(integer(1), "log every N steps", 10)
    report_to: tuple[str, ...] = _saving(
        any_of("tensorboard", "wandb"),
        "tell the numbers to tensorboard, wandb, or both; changes no result [none]",
        (),
        decides="name",
    )

    @property
    def writes_texts(self) -> bool:
        """Whether an evaluation generates texts; else it scores."""
        return TASK_SPECS[self.task].output == "texts"

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
