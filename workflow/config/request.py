"""The flags of a job, each with its type, help, default and meaning."""

from dataclasses import MISSING, dataclass
from functools import partial
from typing import Any

from workflow.config.field_types import (
    any_of,
    biases,
    boolean,
    choice,
    integer,
    mapping,
    number,
    or_auto,
    text,
    texts,
    words,
)
from workflow.config.flags import flag
from workflow.config.inputs import JobInputs
from workflow.config.metric_kinds import METRICS
from workflow.config.task_specs import TASK_SPECS, best_metrics, shown_default

TUNINGS = ("full", "lora", "ia3", "prefix", "prompt")
GREEDY_BELOW = 0.01
"""Temperatures below this mean greedy decoding."""

# transformers' schedules that depend only on the step; the two others need a metric.
SCHEDULES = (
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup",
    "inverse_sqrt", "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay",
)  # fmt: skip
_BEST = {name: ", ".join(best_metrics(name)) for name in TASK_SPECS}

PROCESSES = "processes and memory"
"""A group of flags in the help."""
_training = partial(flag, "training")
_tuning = partial(flag, "what is trained")
_processes = partial(flag, PROCESSES, decides="course")
_optimizer = partial(flag, "optimizer")
_evaluation = partial(flag, "evaluation")
_decoding = partial(flag, "decoding", only_for="seq2seq")
_saving = partial(flag, "checkpoints and logs", decides="course")


@dataclass(frozen=True, kw_only=True)
class JobRequest(JobInputs):
    """A job as requested; None means that a value is still to be derived."""

    max_steps: int | None = _training(
        integer(1), "optimizer steps [from --num_train_epochs]", common=True
    )
    num_train_epochs: float | None = _training(
        number(0, above=True), "passes over the train records [4]"
    )
    train_batch_size: int = _training(
        integer(1),
        f"examples per batch over all devices together [{shown_default('train_batch_size')}]",
        MISSING,
        common=True,
    )
    gradient_accumulation_steps: int = _training(
        integer(1), "batches of --train_batch_size per optimizer step", 1
    )
    micro_batch_tokens: int | None = _training(
        or_auto(integer(1)),
        "padded positions (source + target) per micro-batch: bounds memory, not the result [auto]",
        decides="course",
    )
    label_smoothing_factor: float = _training(
        number(0, below=1),
        "probability spread evenly over the vocabulary (clf: the classes) in targets",
        0.0,
    )
    bf16: bool | None = _training(
        or_auto(boolean()),
        "compute in bfloat16 with float32 master weights; auto: where that is fast [auto]",
    )
    full_determinism: bool = _training(
        boolean(),
        "deterministic CUDA kernels: equal runs are bit-equal on GPUs too, but slower",
        False,
        decides="course",
    )
    gradient_checkpointing: bool = _training(
        boolean(),
        "recompute activations in the backward pass: less memory, a third more time",
        False,
        decides="course",
    )
    torch_compile: bool = _training(
        boolean(),
        "compile the model's layers for training; same result to rounding, slower start",
        False,
        decides="course",
    )

    tuning: str | None = _tuning(
        choice(*TUNINGS),
        "what is trained: full (all weights), or an adapter of the frozen model: lora, ia3, "
        "prefix, prompt [full; that of the model, if it is an adapter]",
        common=True,
    )
    freeze: tuple[str, ...] = _tuning(
        words("parts of the model", "PART", may_be_none=True),
        "with full: parts that stay as they are: embeddings, encoder, decoder, body (all but the "
        "head), bottom:N (embeddings and the N lowest layers), or a regular expression that is "
        "found in parameter names",
        (),
    )
    lora_r: int = _tuning(integer(1), "rank of LoRA's matrices", 8)
    lora_alpha: int = _tuning(integer(1), "LoRA's scale is alpha / r", 16)
    lora_dropout: float = _tuning(number(0, below=1), "dropout of LoRA's inputs", 0.05)
    lora_target_modules: tuple[str, ...] = _tuning(
        words("names of layers", "NAME", may_be_none=True),
        "layers that get LoRA, by the ends of their names, or all-linear [queries and values]",
        (),
    )
    use_dora: bool = _tuning(boolean(), "DoRA: LoRA with trained magnitudes", False)
    modules_to_save: tuple[str, ...] = _tuning(
        words("names of modules", "NAME", may_be_none=True),
        "modules that an adapter also trains and saves, like a classifier's head",
        (),
    )
    num_virtual_tokens: int = _tuning(integer(1), "virtual tokens of prompt or prefix", 20)
    prompt_tuning_init_text: str | None = _tuning(
        text(), "text whose embeddings prompt tuning starts from [words drawn by seed]"
    )
    load_in_8bit: bool = _tuning(
        boolean(), "keep the adapter's frozen model in 8 bits (bitsandbytes)", False
    )
    load_in_4bit: bool = _tuning(
        boolean(), "keep the adapter's frozen model in 4 bits (bitsandbytes' NF4)", False
    )

    zero_stage: int | None = _processes(
        or_auto(integer(1, 3)),
        "ZeRO: shard 1 optimizer state, 2 gradients too, 3 parameters too; same result "
        "[auto: the lowest that fits]",
    )
    offload: str | None = _processes(
        or_auto(choice("none", "optimizer", "all")),
        "keep in host memory: none, optimizer, or all (parameters too); same result "
        "[auto: none if that fits]",
    )
    deepspeed: str | None = _processes(
        text("FILE"), "JSON file with DeepSpeed's zero_optimization and communication settings"
    )

    optim: str = _optimizer(
        choice("adamw_torch", "adafactor", "adamw_bnb_8bit"),
        "adamw_torch, adafactor, or adamw_bnb_8bit (AdamW with moments in 8 bits; bitsandbytes)",
        "adamw_torch",
    )
    learning_rate: float | None = _optimizer(
        number(0, above=True), "peak learning rate [1e-4; adafactor 1e-3]", common=True
    )
    lr_scheduler_type: str | None = _optimizer(
        choice(*SCHEDULES),
        f"learning rate schedule: {', '.join(SCHEDULES)} [linear; adafactor constant]",
    )
    lr_scheduler_kwargs: dict[str, Any] | None = _optimizer(
        mapping(), 'arguments of the schedule, e.g. {"num_cycles": 2}'
    )
    warmup_steps: float | None = _optimizer(
        number(0), "steps of linear warmup; below 1: share of the run [0.05]"
    )
    weight_decay: float = _optimizer(number(0), "weight decay, not on norms and biases", 0.01)
    max_grad_norm: float = _optimizer(number(0), "max gradient norm (0 disables clipping)", 1.0)

    eval_steps: int | None = _evaluation(
        integer(1), "evaluate every N steps, and after the last [a quarter of the run]", common=True
    )
    eval_on_start: bool = _evaluation(boolean(), "evaluate before the first step too", True)
    metric: tuple[str, ...] = _evaluation(
        words("names of metrics", "METRIC", may_be_none=True),
        f"further metrics: FILE.py:FUNCTION, your own; of texts: {METRICS}",
        (),
    )
    eval_batch_size: int | None = _evaluation(
        or_auto(integer(1)),
        "eval records per batch; auto: by their tokens [auto]",
        decides="course",
    )

    max_new_tokens: int | None = _decoding(
        integer(1), "maximum number of tokens to generate [the longest completion in the data]"
    )
    min_new_tokens: int = _decoding(integer(0), "minimum number of tokens to generate", 0)
    temperature: float = _decoding(
        number(0), f"sampling temperature; below {GREEDY_BELOW}: greedy", 0.001, common=True
    )
    top_k: int | None = _decoding(integer(1), "sample from the K most likely tokens [all]")
    top_p: float | None = _decoding(
        number(0, below=1, above=True),
        "sample from the most likely tokens with this total probability [all]",
    )
    min_p: float | None = _decoding(
        number(0, below=1, above=True),
        "sample from the tokens with at least this share of the likeliest's probability [all]",
    )
    typical_p: float | None = _decoding(
        number(0, below=1, above=True),
        "sample from the tokens of typical information with this total probability [all]",
    )
    n_samples: int = _decoding(
        integer(1), "completions per eval record (with beams: the best)", 1, common=True
    )
    best_of: int | None = _decoding(
        integer(2), "draw so many, and keep the --n_samples likeliest by the mean of their tokens"
    )
    choices: str | None = _decoding(text("FILE"), "file with a text in each line, to choose from")
    num_beams: int = _decoding(integer(1), "beams of beam search; 1: no beam search", 1)
    num_beam_groups: int = _decoding(integer(1), "groups of beams, each unlike those before it", 1)
    diversity_penalty: float = _decoding(
        number(0), "subtracted from a token for each beam of earlier groups that took it", 0.0
    )
    repetition_penalty: float = _decoding(
        number(0, above=True), "penalty on tokens already generated; 1: none", 1.0
    )
    presence_penalty: float = _decoding(
        number(), "subtracted from the logits of tokens already generated", 0.0
    )
    frequency_penalty: float = _decoding(number(), "the same, for each time that they were", 0.0)
    logit_bias: dict[str, float] | None = _decoding(
        biases(), "numbers to add to the logits of token ids, e.g. 2163=-5"
    )
    no_repeat_ngram_size: int = _decoding(
        integer(0), "no n-gram of this size occurs twice in a completion; 0: off", 0
    )
    stop: tuple[str, ...] = _decoding(
        texts(), "stop string that ends a completion, or a JSON list of them", ()
    )

    save_steps: int | None = _saving(
        integer(1), "save a checkpoint every N steps, and after the last [a quarter of the run]"
    )
    save_seconds: float | None = _saving(
        number(0, above=True), "also save when this many seconds have passed since the last"
    )
    save_total_limit: int = _saving(
        integer(1), "newest checkpoints to keep; the best one is kept too", 2
    )
    metric_for_best_model: str = _saving(
        text("METRIC"),
        f"metric of the best checkpoint: {_BEST['seq2seq']}; clf: {_BEST['clf']}; or of --metric",
        "loss",
        decides="result",
    )
    logging_steps: int = _saving(integer(1), "log every N steps", 10)
    report_to: tuple[str, ...] = _saving(
        any_of("tensorboard", "wandb"),
        "log metrics to tensorboard, wandb or both [none]",
        (),
        decides="name",
    )

    @property
    def writes_texts(self) -> bool:
        """Whether evaluations generate texts; otherwise they score."""
        return TASK_SPECS[self.task].output == "texts"

    @property
    def learns_text(self) -> bool:
        """Whether the records are plain text, which has no prompts."""
        return self.block_packing is not None

    @property
    def has_adapter(self) -> bool:
        """Whether an adapter of a frozen model is trained or evaluated."""
        return self.tuning not in (None, "full")

    @property
    def bits(self) -> int | None:
        """Bits of the adapter's frozen model, if it is quantized."""
        return 8 if self.load_in_8bit else 4 if self.load_in_4bit else None

    @property
    def virtual_positions(self) -> int:
        """Positions of virtual tokens before each source."""
        return self.num_virtual_tokens if self.tuning in ("prompt", "prefix") else 0

    @property
    def virtual_ids(self) -> int:
        """Ids of virtual tokens before each source: a prefix has positions, but no ids."""
        return self.num_virtual_tokens if self.tuning == "prompt" else 0

    @property
    def batch_size(self) -> int:
        """Examples of one optimizer step."""
        return self.train_batch_size * self.gradient_accumulation_steps

    @property
    def greedy(self) -> bool:
        """Whether decoding takes the most likely token or beam, without sampling."""
        return self.temperature < GREEDY_BELOW
