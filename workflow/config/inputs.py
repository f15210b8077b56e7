"""The flags of what a job reads and where it writes: model, data and run."""

from dataclasses import MISSING, dataclass
from functools import partial

from workflow.config.field_types import (
    boolean,
    choice,
    integer,
    number,
    several,
    shares,
    template,
    text,
)
from workflow.config.flags import flag
from workflow.config.task_specs import shown_default
from workflow.config.templates import NAMED, PLAIN

DATA, RUN = "data", "run"
"""Groups of flags in the help."""
_model = partial(flag, "model (exactly one of the first three)")
_data = partial(flag, DATA)
_seq2seq_data = partial(_data, only_for="seq2seq")
_clf_data = partial(_data, only_for="clf")
_run = partial(flag, RUN)
_start = partial(_run, decides="start")


@dataclass(frozen=True, kw_only=True)
class JobInputs:
    """The model, the data and the run of a job."""

    task: str

    model_init_name: str | None = _model(
        text("FOLDER"),
        "folder in mount/models, e.g. flan-t5-xxl or RUN/checkpoint-2000",
        common=True,
    )
    model_init_path: str | None = _model(text("MODEL"), "same as --model_pretrain_name")
    model_pretrain_name: str | None = _model(
        text("MODEL"), "name on the Hugging Face hub, or a local folder", common=True
    )
    init: str = _model(
        choice("pretrained", "random"),
        "pretrained: the model's weights; random: new ones drawn from --seed, of which the model's "
        "folder needs only config.json and the tokenizer",
        "pretrained",
    )
    dropout_rate: float | None = _model(number(0, below=1), "dropout in training [the model's own]")

    data_name: str = _data(
        text("DATA"), "X for mount/data/X.json, X.jsonl or the folder X, or a path", "", common=True
    )
    eval_fraction: float | None = _data(
        number(0, below=1, above=True),
        "share of train records to hold out for evaluation, for data without eval records",
    )
    max_source_length: int = _data(
        integer(2),
        "longest prompt in tokens; longer ones are truncated (plain text is cut to pieces)",
        1024,
    )
    max_target_length: int = _seq2seq_data(
        integer(2), "longest completion in tokens; longer ones are truncated", 512
    )
    truncation_side: str = _data(
        choice("right", "left", "middle"),
        f"side on which long prompts are truncated [{shown_default('truncation_side')}]",
        MISSING,
    )
    template: str | None = _data(
        template(PLAIN, NAMED),
        "prompt made of an input: chat (the model's chat template), plain, alpaca, or a text (or a "
        "file) with {input} [chat for decoder-only models that have one, else plain; clf plain]",
        MISSING,
        common=True,
    )
    train_on: str = _seq2seq_data(
        choice("last_turn", "all_turns"),
        "of chats: learn the last message of the assistant, or all of them",
        "last_turn",
    )
    block_packing: bool | None = _seq2seq_data(
        boolean(),
        "of plain text: a batch counts blocks of --max_source_length tokens, which documents fill "
        "one behind the other, without attention across; false: it counts pieces of documents "
        "[true]",
    )
    document_separator: str | None = _seq2seq_data(
        text(), "what ends a document in a .txt file [blank lines]"
    )
    label_words: tuple[str, ...] = _clf_data(
        several(2, 1000),
        "words for --target_min and --target_max, or one for each class; one token each "
        "[no yes; the names of the classes, of pairs A B C]",
        ("no", "yes"),
        common=True,
    )
    classes: tuple[str, ...] | None = _clf_data(
        several(2, 1000),
        "names of the classes, in the order of their logits [the sorted labels of train]",
    )
    pair_shares: tuple[float, ...] = _clf_data(
        shares(3),
        "of --max_source_length, for the prompt, the first answer and the second of pairs that "
        "are truncated [0.4 0.3 0.3]",
        (0.4, 0.3, 0.3),
    )
    both_orders: bool = _clf_data(
        boolean(), "train on pairs in both orders, not in one that is drawn", False
    )
    class_weight: str | None = _clf_data(
        text("balanced|FILE"),
        "weights of the classes in the loss: balanced (inverse to their frequency), or a JSON file "
        "that maps classes to weights [1 each]",
    )
    target_min: float = _clf_data(number(), "target that means the first label word", 0.0)
    target_max: float = _clf_data(number(), "target that means the second label word", 1.0)
    source_lang: str | None = _data(
        text("CODE"), "language code of prompts, for multilingual models [the tokenizer's]"
    )
    target_lang: str | None = _seq2seq_data(
        text("CODE"), "language code of completions, for multilingual models [the tokenizer's]"
    )
    add_missing_tokens: bool = _data(
        boolean(), "add a token for each character that the vocabulary lacks", False
    )

    training_run_name: str | None = _run(
        text("RUN"),
        "folder of the run in mount/models [MODEL_DATA_SEED; --no_train: MODEL_DATA_eval]",
        decides="name",
        common=True,
    )
    no_train: bool = _run(boolean(), "only evaluate, on the eval records", False, common=True)
    smoke: bool = _run(
        boolean(),
        "try all of the job in seconds, on a few records and steps, in a folder RUN_smoke",
        False,
        common=True,
    )
    audit: bool = _start(boolean(), "only audit the data", False)
    overwrite_output_dir: bool = _start(
        boolean(), "remove an existing run of this name first", False
    )
    resume_from_checkpoint: str | None = _start(
        text("RUN"),
        "resume from another run's newest checkpoint; none: fail instead of resuming "
        "[the run's own newest]",
    )
    seed: int = _run(integer(0, 2**32 - 1), "seed of data order, dropout and sampling", 0)

    @property
    def model(self) -> str:
        """The model as the user named it."""
        name = self.model_init_name or self.model_init_path or self.model_pretrain_name
        if name is None:
            raise ValueError("a job has a model")
        return name
