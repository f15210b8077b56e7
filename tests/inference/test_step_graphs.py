"""What a GPU needs of a token's step, tested without one: few waits, few launches, graphs."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_t5
from test_generate import make_decoding
from test_t5_decoder import ending, random_prompts, write
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from workflow.distributed.stop import Stop
from workflow.inference import decoding_loop, step_graphs
from workflow.inference.decoding import Decoding, PromptBatch
from workflow.inference.decoding_loop import PromptWriter, generate_rows
from workflow.inference.rows import ON_GPU, Pace
from workflow.inference.step_graphs import StepGraphs
from workflow.inference.t5_decoder import T5Decoder

GREEDY = {"max_new_tokens": 24}
SAMPLES = {"max_new_tokens": 24, "n_samples": 3, "temperature": 0.8, "top_k": 50, "top_p": 0.9}


def tensors(values: Any) -> list[torch.Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]


def is_view(operator: Any) -> bool:
    """Whether an operator only gives its input another shape."""
    returns = operator._schema.returns
    return bool(returns) and all(r.alias_info and not r.alias_info.is_write for r in returns)


class Operators(TorchDispatchMode):
    """Counts operators: those that start a kernel, and those that make the host wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.launches = 0
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = operator._schema.name.removeprefix("aten::")
        allocates = name in ("empty", "empty_like", "new_empty", "_unsafe_view", "_reshape_alias")
        self.launches += not allocates and not is_view(operator)
        chosen = name.startswith("index") and len(args) > 1 and tensors(args[1])
        by_mask = chosen and any(index.dtype == torch.bool for index in chosen)
        if name in ("_local_scalar_dense", "nonzero") or by_mask:
            self.waits[name] += 1
        return operator(*args, **(kwargs or {}))


class Copies(TorchFunctionMode):
    """Counts copies between host and device that wait, which on a CPU are no operators."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name, options = function.__name__, kwargs or {}
        moves = name == "to" and any(isinstance(one, torch.device) for one in args)
        indexed = name in ("__getitem__", "__setitem__") and isinstance(args[1], tuple)
        by_list = indexed and any(isinstance(index, list) for index in args[1])
        if name in ("cpu", "tolist") or by_list or (moves and not options.get("non_blocking")):
            self.waits[name] += 1
        return function(*args, **options)


def waits_of(call: Callable[[], object]) -> dict[str, int]:
    with Operators() as operators, Copies() as copies, torch.no_grad():
        call()
    return dict(operators.waits + copies.waits)


def prepare(
    model: Any, decoding: Decoding, prompts: list[list[int]], at_once: int = 6, pace: Pace = ON_GPU
) -> tuple[T5Decoder, PromptWriter]:
    with torch.no_grad():
        decoder = T5Decoder.of(model, prompts, decoding, at_once, pace)
        return decoder, PromptWriter(
            decoder, PromptBatch(prompts, range(len(prompts)), [5, 6]), decoding, Stop(), print
        )


def fill(decoder: T5Decoder, prompts: list[list[int]]) -> None:
    """Add prompts in all free places: these are the first ones, then the last."""
    first = 0 if not len(decoder.rows) else len(prompts) - decoder.free
    decoder.add(first, prompts[first : first + decoder.free])


@pytest.mark.parametrize("settings", [GREEDY, SAMPLES])
def test_the_host_waits_only_to_look_which_texts_have_ended(settings: dict[str, Any]) -> None:
    """Not for a token, a text that leaves, or a prompt that comes."""
    prompts = random_prompts(12)
    decoder, writer = prepare(make_t5(), make_decoding(**settings), prompts)
    for _ in range(2):  # for the first prompts, and for those that come in the places of others
        assert waits_of(lambda: fill(decoder, prompts)) == {}
        shapes, steps = decoder.rows.ahead()
        assert steps == 8
        assert waits_of(partial(writer.write, shapes)) == {}
        assert waits_of(decoder.rows.look) == {"cpu": 1}
        going = np.arange(len(decoder.rows)) % 5 > 1
        assert waits_of(partial(decoder.keep, going)) == {}


def test_it_looks_once_in_eight_tokens() -> None:
    model, prompts = make_t5(), random_prompts(5)
    model.lm_head.weight.data[1] = 0  # no text ends

    def waits(new_tokens: int) -> int:
        decoding = make_decoding(max_new_tokens=new_tokens)
        decoder, _ = prepare(model, decoding, prompts)
        batch = PromptBatch(prompts, range(5))
        found = waits_of(lambda: generate_rows(decoder, batch, decoding, Stop(), lambda _: None))
        return sum(found.values())

    assert [waits(new) - waits(8) for new in (1, 9, 16, 17, 24)] == [0, 1, 1, 2, 2]


class HostTensors(TorchDispatchMode):
    """Lists the operators that use a tensor of the host; on a GPU they copy it, and wait."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = operator(*args, **(kwargs or {}))
        if any(one.device.type == "cpu" for one in tensors((args, kwargs, result))):
            self.found.append(str(operator))
        return result


@pytest.mark.parametrize("settings", [GREEDY, SAMPLES | {"min_new_tokens": 2}])
def test_steps_need_no_value_of_a_tensor_and_no_tensor_of_the_host(
    settings: dict[str, Any],
) -> None:
    """On the device `meta`, whose tensors have no values."""
    model = make_t5(vocab_size=1100).to("meta")  # no multiple of a block of the vocabulary
    prompts = random_prompts(12)
    decoder, writer = prepare(model, make_decoding(**settings), prompts)
    for _ in range(2):
        with torch.no_grad(), HostTensors() as of_others:
            fill(decoder, prompts)
        shapes, _ = decoder.rows.ahead()
        with torch.no_grad(), HostTensors() as of_step:
            writer.write(shapes)
        assert of_step.found == []
        with torch.no_grad(), of_others:
            decoder.keep(np.arange(len(decoder.rows)) % 5 > 1)
        by_send = {"aten.lift_fresh.default", "aten._to_copy.default"}  # without waiting
        assert set(of_others.found) == by_send


@pytest.mark.parametrize(
    ("dtype", "settings", "of_layer", "others"),
    [
        (torch.float32, GREEDY, 49, 28),
        (torch.bfloat16, GREEDY, 57, 31),
        (torch.float32, {"n_samples": 4, "temperature": 1.0}, 53, 53),
        (torch.bfloat16, {"n_samples": 4, "temperature": 1.0}, 61, 56),
    ],
)
def test_launches_of_a_token(
    dtype: torch.dtype, settings: dict[str, Any], of_layer: int, others: int
) -> None:
    """With transformers' modules. docs/operate/performance.md has these numbers."""

    def launches(layers: int) -> int:
        model = make_t5(num_layers=layers).to(dtype)
        prompts = random_prompts(6)
        decoder, writer = prepare(model, make_decoding(**settings), prompts)
        with torch.no_grad():
            fill(decoder, prompts)
            with Operators() as operators:
                writer.write(decoder.rows.ahead()[0])
        return operators.launches

    assert launches(3) - launches(2) == of_layer
    assert launches(2) - 2 * of_layer == others


class Recording(TorchDispatchMode):
    """A CUDA graph's behaviour on a CPU.

    As in a capture, operators are recorded, and tensors that were there are unchanged. As in a
    replay, the same operators use the same memory again, whatever Python would do now.
    """

    def __init__(self) -> None:
        super().__init__()
        self._recorded: list[tuple[Any, Any, Any, Any]] = []
        self._before: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        options = kwargs or {}
        for argument, value in zip(operator._schema.arguments, args, strict=False):
            if argument.alias_info and argument.alias_info.is_write:
                self._before.append((value, value.clone()))
        result = operator(*args, **options)
        if not is_view(operator):
            self._recorded.append((operator, args, options, result))
        return result

    def undo(self) -> None:
        for tensor, value in reversed(self._before):
            tensor.copy_(value)

    def replay(self) -> None:
        for operator, args, options, result in self._recorded:
            again = operator(*args, **options)
            for old, new in zip(tensors(result), tensors(again), strict=True):
                if old is not new:
                    old.copy_(new)


class Cuda:
    """Stands in for torch.cuda in `step_graphs`."""

    CUDAGraph = Recording
    captured = 0

    def __init__(self, failure: Exception | None = None) -> None:
        self._failure = failure

    def graph_pool_handle(self) -> None:
        return None

    def current_stream(self) -> "Cuda":
        return self

    Stream = current_stream

    def wait_stream(self, other: "Cuda") -> None:
        pass

    def stream(self, stream: "Cuda") -> Any:
        return nullcontext()

    @contextmanager
    def graph(self, graph: Recording, *_: object, capture_error_mode: str) -> Iterator[None]:
        assert capture_error_mode == "thread_local"
        with graph:
            yield
        graph.undo()
        if self._failure:
            raise self._failure
        self.captured += 1


@pytest.mark.parametrize("settings", [GREEDY, SAMPLES | {"min_new_tokens": 2}])
@pytest.mark.parametrize("pace", [ON_GPU, Pace(tokens=2, multiple=6, doubles=True)])
def test_replayed_steps_write_the_same_texts(
    settings: dict[str, Any], pace: Pace, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, prompts, decoding = ending(), random_prompts(40), make_decoding(**settings)
    wanted = write(model, prompts, decoding)
    cuda = Cuda()
    monkeypatch.setattr(step_graphs.torch, "cuda", cuda)
    monkeypatch.setattr(decoding_loop, "run_each", StepGraphs().run)
    found = write(model, prompts, decoding, at_once=16, pace=pace)
    assert found.sequences == wanted.sequences
    torch.testing.assert_close(found.first_logits, wanted.first_logits)
    assert cuda.captured > 2 or pace is ON_GPU


def test_steps_go_on_without_graphs_where_a_capture_fails(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, prompts, decoding = ending(), random_prompts(40), make_decoding(**GREEDY)
    wanted = write(model, prompts, decoding)
    failure = RuntimeError("operation not permitted when stream is capturing\nat line 1")
    monkeypatch.setattr(step_graphs.torch, "cuda", Cuda(failure))
    monkeypatch.setattr(decoding_loop, "run_each", StepGraphs().run)
    found = write(model, prompts, decoding, at_once=16, pace=ON_GPU)
    assert found.sequences == wanted.sequences
    assert [record.message for record in caplog.records] == [
        "generation continues without CUDA graphs, which failed: "
        "operation not permitted when stream is capturing"
    ]
