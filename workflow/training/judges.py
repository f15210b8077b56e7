"""Models that judge answers by scoring pairs of texts: BARTScore, BERTScore and perplexity."""

import csv
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from transformers import PreTrainedModel

from workflow.config.metric_kinds import AskedMetric, problems_of
from workflow.config.parse import make_job
from workflow.config.templates import PLAIN
from workflow.core.errors import BadInput, Problem
from workflow.data.text_format import TextFormat
from workflow.data.token_cache import cut_row
from workflow.distributed.device import pick_device
from workflow.distributed.world import World
from workflow.inference.eval_shard import EvalShard
from workflow.inference.likelihood import mean_logprobs
from workflow.inference.similarity import similarities
from workflow.metrics.asked import check_files
from workflow.metrics.user import load_user_metric
from workflow.models.families import family_of
from workflow.models.folders import check_folder
from workflow.models.hub import load_config, load_tokenizer
from workflow.models.loading import check_weight_files, load_model
from workflow.models.settings import ModelSettings, load_model_settings
from workflow.runs.mount import Mount, find_in_mount
from workflow.tasks.base import EvalContext
from workflow.tasks.formats import text_format

Pair = tuple[str, str]
Scores = tuple[float, ...]
LONGEST = 1_024
"""Most tokens of a text, as in BARTScore's code."""
_SPACED = ("roberta",)
"""Types whose texts bert-score begins with a space."""


class Scorer(Protocol):
    """Scores pairs of texts by a model."""

    def scores(
        self, model: PreTrainedModel, pairs: Sequence[Pair], shard: EvalShard
    ) -> Iterator[tuple[int, Scores]]:
        """The index and scores of each pair of this process's share."""


@dataclass(frozen=True)
class Likelihood:
    """The mean log probability of a token of the second text, given the first as a prompt."""

    settings: ModelSettings
    format: TextFormat

    @classmethod
    def of(cls, folder: Path) -> "Likelihood":
        """The scorer by a folder's model, which generates texts."""
        values = {"model_pretrain_name": str(folder), "data_name": "none", "template": PLAIN}
        request = make_job("seq2seq", no_train=True, **values)
        settings, request = load_model_settings(folder, request, processes=1)
        return cls(settings, text_format(settings, request))

    def scores(
        self, model: PreTrainedModel, pairs: Sequence[Pair], shard: EvalShard
    ) -> Iterator[tuple[int, Scores]]:
        tokenizer, config = self.settings.tokenizer, self.settings.config
        given, texts = ([pair[side] for pair in pairs] for side in (0, 1))
        read, written = family_of(config).max_positions(config)
        if family_of(config).joins_texts:  # both share the positions
            written = read // 2
            read -= written
        frames = self.format.frames(tokenizer)

        def cut(rows: list[list[int]], part: str, positions: float) -> list[Any]:
            longest = int(min(LONGEST, positions))
            return [cut_row(np.array(row), longest, "right", frames[part]) for row in rows]

        sources = cut(self.format.sources(tokenizer, given), "source", read)
        targets = cut(self.format.targets(tokenizer, given, texts), "target", written)
        for index, mean in mean_logprobs(model, sources, targets, shard):
            yield index, (mean,)


@dataclass(frozen=True)
class Similarity:
    """BERTScore's F1, precision and recall of the first text against the second.

    Attributes:
        layer: whose hidden states are compared.
        baseline: of F1, precision and recall, which become 0.
    """

    folder: Path
    layer: int
    baseline: Scores

    @classmethod
    def of(cls, folder: Path, asked: AskedMetric) -> "Similarity":
        """The scorer by a folder's encoder; raises BadInput if it lacks the layer or baseline."""
        tokenizer = load_tokenizer(folder)
        layers = load_config(folder, len(tokenizer)).num_hidden_layers
        layer = int(asked.argument(1) or layers)
        where = f"--metric {asked.text}"
        if layer > layers:
            found = f"layer {layer} of a model with {layers}"
            raise BadInput([Problem(where, found, f"at most {layers}", "correct LAYER")])
        file = asked.argument(2)
        return cls(folder, layer, _read_baseline(file, layer, where) if file else (0.0, 0.0, 0.0))

    def scores(
        self, model: PreTrainedModel, pairs: Sequence[Pair], shard: EvalShard
    ) -> Iterator[tuple[int, Scores]]:
        tokenizer: Any = load_tokenizer(self.folder)
        positions, _ = family_of(model.config).max_positions(model.config)
        space = " " * (model.config.model_type in _SPACED)
        encoded = [
            tokenizer(
                [(space + pair[side].strip()).rstrip() for pair in pairs],
                truncation=True, max_length=int(min(LONGEST, positions)),
            )["input_ids"]
            for side in (0, 1)
        ]  # fmt: skip
        edges = [i for i in (tokenizer.cls_token_id, tokenizer.sep_token_id) if i is not None]
        rows = list(zip(*encoded, strict=True))
        for index, (p, r) in similarities(model, rows, self.layer, edges, shard):
            f1 = 2 * p * r / (p + r) if p + r else 0.0
            scaled = zip((f1, p, r), self.baseline, strict=True)
            yield index, tuple((value - least) / (1 - least) for value, least in scaled)


def _read_baseline(file: str, layer: int, where: str) -> Scores:
    """The baseline of a layer in a file of bert-score: a row for each, with LAYER,P,R,F."""
    expected = "a file of bert-score with the columns LAYER,P,R,F"
    try:
        with open(Path(file).expanduser(), newline="", encoding="utf-8") as lines:
            rows = {int(row["LAYER"]): row for row in csv.DictReader(lines)}
            found: Scores = tuple(float(rows[layer][name]) for name in "FPR")
            if not max(found) < 1:
                raise ValueError(found)
    except OSError as error:
        found_instead = f"{file}: {(error.strerror or str(error)).lower()}"
    except (KeyError, ValueError, TypeError):
        found_instead = f"{file} without figures of layer {layer}"
    else:
        return found
    raise BadInput([Problem(where, found_instead, expected, "correct the file or its path")])


@dataclass
class Judge:
    """A model that scores pairs of texts.

    Attributes:
        known: the scores of pairs, on rank 0; `forget` limits them to those of one evaluation.
    """

    folder: Path
    scorer: Scorer
    known: dict[Pair, Scores] = field(default_factory=dict)
    _own: PreTrainedModel | None = None

    def learn(
        self,
        pairs: Sequence[Pair],
        context: EvalContext,
        bf16: bool,
        own: AbstractContextManager[None] | None,
    ) -> None:
        """Compute the scores of pairs that are not known; all processes must call it.

        Args:
            pairs: on rank 0; elsewhere any.
            own: within its block the evaluated model is the judge's, which then is not loaded.
        """
        world, known = context.shard.world, self.known
        missing = world.on_rank_zero(lambda: [p for p in dict.fromkeys(pairs) if p not in known])
        if not missing:
            return
        if own is not None:
            with own:
                found = dict(self.scorer.scores(context.model, missing, context.shard))
        else:
            shard = replace(context.shard, lockstep=False)
            with self._loaded(world, bf16) as model:
                found = dict(self.scorer.scores(model, missing, shard))
        for part in world.gather_on_rank_zero(found) or ():
            known.update((missing[index], scores) for index, scores in part.items())

    def forget(self, but: Collection[Pair]) -> None:
        """Forget the scores of all pairs but these."""
        self.known = {pair: scores for pair, scores in self.known.items() if pair in but}

    @contextmanager
    def _loaded(self, world: World, bf16: bool) -> Iterator[PreTrainedModel]:
        """The judge's model on this process's device; training needs its memory afterwards."""
        if self._own is None:
            self._own = world.together(lambda: load_judge(self, bf16))
        model: Any = self._own
        model.to(pick_device())
        try:
            yield model
        finally:
            model.to("cpu")


def load_judge(judge: Judge, bf16: bool) -> PreTrainedModel:
    """A judge's model on this process's device, as it computes fastest there."""
    device = pick_device()
    with device:
        model = load_model(judge.folder, dtype=torch.bfloat16 if bf16 else torch.float32)
    if isinstance(judge.scorer, Likelihood):
        judge.scorer.settings.decoder_ids.set_in(model)
        family_of(model.config).use_modules_for(model, device)
    return model


def judge_of(asked: AskedMetric, folder: Path) -> Judge:
    """The judge of a metric; raises BadInput if the model cannot be one."""
    check_folder(folder)
    check_weight_files(folder)
    config = load_config(folder, 0)
    family, where = family_of(config), f"--metric {asked.text}"
    found = f"the model type {config.model_type}"
    if asked.name == "bertscore":
        if family.name != "encoder":
            hint = "name an encoder, e.g. of BERT's or RoBERTa's type"
            raise BadInput([Problem(where, found, "an encoder", hint)])
        return Judge(folder, Similarity.of(folder, asked))
    if not family.generates:
        hint = "name an encoder-decoder or a decoder-only model"
        raise BadInput([Problem(where, found, "a model that generates texts", hint)])
    return Judge(folder, Likelihood.of(folder))


def find_judges(asked: Sequence[str], mount: Mount) -> tuple[dict[str, Judge], list[Problem]]:
    """The judge of each metric, and what is wrong with models and files of metrics.

    Metrics by the likelihood of one model have one judge.
    """
    judges: dict[str, Judge] = {}
    by_likelihood: dict[Path, Judge] = {}
    problems: list[Problem] = []
    for one in map(AskedMetric, asked):
        if any(problems_of(one)):
            continue  # reported with the other flags
        try:
            if one.is_own:
                load_user_metric(one.text)
            elif one.by_model:
                folder, wrong = find_in_mount(mount, one.arguments[0])
                if wrong:
                    raise BadInput([replace(wrong[0], where=f"--metric {one.text}")])
                judge = by_likelihood.get(folder) if one.name != "bertscore" else None
                judges[one.text] = judge or judge_of(one, folder)
                if one.name != "bertscore":
                    by_likelihood[folder] = judges[one.text]
            else:
                check_files(one)
        except BadInput as error:
            problems += error.problems
    return judges, problems
