"""Models over HTTP, by OpenAI's own client: the answers of an evaluation, whoever else asks."""

import json
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from conftest import BERT_TINY, GPT_TINY, T5_TINY, make_mount, write_data
from served import Running, serving
from tiny_models import make_family

from workflow import make_job, run_job
from workflow.inference.decoding import end_ids
from workflow.runs.mount import Mount
from workflow.serving.model import ServedModel

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])
PROMPTS = [f"add one: {' '.join(str(n**2 + 37))}" for n in range(200)]


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Mount:
    mount = make_mount(tmp_path_factory.mktemp("served"))
    for name, folder in (("gpt", GPT_TINY), ("t5", T5_TINY), ("bert", BERT_TINY)):
        (mount.models / name).symlink_to(folder)
    return mount


@pytest.fixture(scope="module", params=["gpt", "t5"])
def running(request: pytest.FixtureRequest, mount: Mount) -> Iterator[Running]:
    with serving(mount, request.param) as one:
        yield one


def client(running: Running, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0, **options)


def evaluated(mount: Mount, model: str, **flags: Any) -> list[dict[str, Any]]:
    """The items of an evaluation of PROMPTS."""
    write_data(mount, "asked", [], [{"prompt": prompt} for prompt in PROMPTS])
    name = f"{model}-{len(flags)}"
    request = make_job(
        "seq2seq", model_init_name=model, data_name="asked", no_train=True, bf16=False,
        max_new_tokens=12, training_run_name=name, overwrite_output_dir=True, **flags,
    )  # fmt: skip
    (path,) = run_job(request, mount).glob("temperature=*.json")
    items: list[dict[str, Any]] = json.loads(path.read_text())
    return items


def test_concurrent_answers_are_those_of_an_evaluation(mount: Mount, running: Running) -> None:
    model = running.model
    items = evaluated(mount, model.name)
    of_client = client(running)

    def ask(prompt: str) -> Any:
        return of_client.completions.create(
            model=model.name, prompt=prompt, max_tokens=12, temperature=0, logprobs=1
        )

    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(ask, PROMPTS))
    for answer, item in zip(answers, items, strict=True):
        (choice,) = answer.choices
        assert choice.text.strip() == item["generations"][0]["lm_postprocess"]
        assert choice.finish_reason in ("stop", "length")
    for prompt, answer in zip(PROMPTS[:25], answers, strict=False):
        found = answer.choices[0].logprobs.token_logprobs
        assert found == pytest.approx(greedy_logprobs(model, model.prompt_ids(prompt)), abs=1e-4)
    together = of_client.completions.create(
        model=model.name, prompt=PROMPTS[:20], max_tokens=12, temperature=0
    )
    assert [one.text for one in together.choices] == [one.choices[0].text for one in answers[:20]]


def greedy_logprobs(model: ServedModel, prompt: list[int]) -> list[float]:
    """The log probabilities of the most likely tokens, by a plain call of the model for each.

    Without that of the end token.
    """
    found: list[float] = []
    written: list[int] = []
    while len(written) < 12 and not {*written} & {*end_ids(model.model)}:
        value, token = logprobs_after(model, prompt, written)[-1].max(-1)
        found.append(float(value))
        written.append(int(token))
    return found if written[-1] not in end_ids(model.model) else found[:-1]


def logprobs_after(model: ServedModel, prompt: list[int], written: list[int]) -> torch.Tensor:
    """The log probabilities after a prompt and each token written, (tokens + 1, vocabulary)."""
    inputs: dict[str, Any] = {"input_ids": torch.tensor([prompt])}
    if model.joins_texts:
        inputs["input_ids"] = torch.tensor([[*prompt, *written]])
    else:
        start = model.model.config.decoder_start_token_id
        inputs["decoder_input_ids"] = torch.tensor([[start, *written]])
    with torch.no_grad():
        logits = model.model(**inputs).logits[0, -len(written) - 1 :]
    return logits.float().log_softmax(-1)


def test_samples_depend_on_the_seed_alone(mount: Mount, running: Running) -> None:
    name = running.model.name
    items = evaluated(mount, name, temperature=1.0, n_samples=3, seed=7)
    of_client = client(running)
    asked = {"model": name, "prompt": PROMPTS[0], "max_tokens": 12, "temperature": 1, "n": 3}
    with ThreadPoolExecutor(4) as threads:
        others = [threads.submit(of_client.completions.create, **asked, seed=s) for s in range(6)]
        answer = of_client.completions.create(**asked, seed=7)
        assert all(other.result().choices for other in others)
    expected = [one["lm_postprocess"] for one in items[0]["generations"]]
    assert [choice.text.strip() for choice in answer.choices] == expected


def test_a_stream_is_the_whole_answer_in_parts(running: Running) -> None:
    of_client, name = client(running), running.model.name
    asked = {"model": name, "prompt": PROMPTS[1], "max_tokens": 10, "temperature": 0}
    whole = of_client.completions.create(**asked).choices[0]
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(of_client.completions.create(**asked, **options))
    parts = [choice for chunk in chunks for choice in chunk.choices]
    assert "".join(part.text for part in parts) == whole.text
    assert [p.finish_reason for p in parts if p.finish_reason] == [whole.finish_reason]
    assert chunks[-1].usage.completion_tokens > 0
    messages = [{"role": "user", "content": "hello"}]
    chat = {"model": name, "messages": messages, "max_tokens": 6, "temperature": 0}
    answer = of_client.chat.completions.create(**chat, logprobs=True, top_logprobs=2)
    parts = [c.choices[0] for c in of_client.chat.completions.create(**chat, stream=True)]
    said = "".join(part.delta.content or "" for part in parts)
    assert said == answer.choices[0].message.content
    assert len(answer.choices[0].logprobs.content[0].top_logprobs) == 2


def test_penalties_biases_and_stops(running: Running) -> None:
    of_client, model = client(running), running.model
    asked = {"model": model.name, "prompt": PROMPTS[2], "max_tokens": 12, "temperature": 0}
    plain = of_client.completions.create(**asked, logprobs=0).choices[0]
    token = model.job.tokenizer.convert_tokens_to_ids("a")
    token = token if token is not None else 5
    biased = of_client.completions.create(**asked, logit_bias={str(token): 100}).choices[0]
    assert biased.text != plain.text
    varied = of_client.completions.create(
        **asked, presence_penalty=2, frequency_penalty=2, logprobs=0
    ).choices[0]
    assert varied.text != plain.text
    assert len({*varied.logprobs.tokens}) > len({*plain.logprobs.tokens})
    stop = plain.text[len(plain.text) // 2 :][:2]
    stopped = of_client.completions.create(**asked, stop=stop).choices[0]
    assert stopped.text == plain.text[: plain.text.index(stop)]
    assert stopped.finish_reason == "stop"
    sampled = asked | {"temperature": 1, "seed": 5, "logprobs": 0, "logit_bias": {"1": -100}}
    drawn = of_client.completions.create(**sampled, n=4).choices
    (best,) = of_client.completions.create(**sampled, n=1, best_of=4).choices
    means = {one.text: statistics.mean(one.logprobs.token_logprobs) for one in drawn}
    assert len(means) > 1 and best.text == max(means, key=means.__getitem__)


def test_echo_tells_the_log_probabilities_of_the_prompt(running: Running) -> None:
    """As harnesses ask for them: of a prompt without an answer, or with one."""
    of_client, model = client(running), running.model
    asked = {"model": model.name, "prompt": PROMPTS[0], "temperature": 0, "echo": True}
    if not model.joins_texts:
        with pytest.raises(openai.BadRequestError, match="echo is for models"):
            of_client.completions.create(**asked)
        return
    ids = model.prompt_ids(PROMPTS[0])
    after = logprobs_after(model, ids[:1], ids[1:])
    expected = after[range(len(ids) - 1), ids[1:]].tolist()
    for most in (0, 3):
        (choice,) = of_client.completions.create(**asked, max_tokens=most, logprobs=2).choices
        assert choice.text.startswith(PROMPTS[0])
        assert len(choice.logprobs.tokens) <= len(ids) + most
        assert "".join(choice.logprobs.tokens).endswith(choice.text.removeprefix(PROMPTS[0]))
        first, *others = choice.logprobs.token_logprobs
        assert first is None and choice.logprobs.top_logprobs[0] is None
        assert others[: len(expected)] == pytest.approx(expected, abs=1e-4)
    with pytest.raises(openai.BadRequestError, match="max_tokens: 0 is for echo"):
        of_client.completions.create(model=model.name, prompt="a", max_tokens=0)


def test_bad_requests_are_refused_in_openais_shape(running: Running) -> None:
    of_client, name = client(running), running.model.name
    with pytest.raises(openai.NotFoundError, match="not served here"):
        of_client.completions.create(model="other", prompt="a")
    with pytest.raises(openai.BadRequestError, match="at most 200 fit"):
        of_client.completions.create(model=name, prompt="word " * 400)
    with pytest.raises(openai.BadRequestError, match="at most 64 are written"):
        of_client.completions.create(model=name, prompt="a", max_tokens=65)
    for body in ('{"prompt": 5}', '{"prompt": "a", "temperature": NaN}', "{", '["a"]',
                 '{"prompt": "\\ud800"}', '{"prompt": "a", "n": 99}', "null"):  # fmt: skip
        found = httpx.post(
            f"{running.url}/v1/completions", content=body,
            headers={"Content-Type": "application/json"},
        )  # fmt: skip
        assert found.status_code == 400, body
        assert {*found.json()["error"]} == {"message", "type", "param", "code"}
        assert "Traceback" not in found.text
    assert running.post("/score", {"records": [{"input": "a"}]}).status_code == 400
    assert httpx.get(f"{running.url}/nowhere").status_code == 404
    assert httpx.get(f"{running.url}/health").json() == {"live": True, "ready": True}
    assert 'path="/v1/completions",status="400"' in httpx.get(f"{running.url}/metrics").text


def test_a_stream_tells_the_log_probabilities_of_the_whole_answer(running: Running) -> None:
    of_client = client(running)
    asked = {"model": running.model.name, "prompt": PROMPTS[3], "max_tokens": 9, "logprobs": 3}
    asked |= {"temperature": 1, "seed": 2**40, "stop": ["zzz"]}
    whole = of_client.completions.create(**asked).choices[0]
    parts = [c.choices[0] for c in of_client.completions.create(**asked, stream=True)]
    told = [part.logprobs for part in parts if part.logprobs is not None]
    for name in ("tokens", "token_logprobs", "text_offset", "top_logprobs"):
        assert [one for part in told for one in getattr(part, name)] == getattr(
            whole.logprobs, name
        )
    assert "".join(part.text for part in parts) == whole.text


def test_what_is_not_said_is_as_in_openais_api(running: Running) -> None:
    body = {"prompt": PROMPTS[0], "max_tokens": 20, "temperature": 1.5}
    texts = {running.post("/v1/completions", body).json()["choices"][0]["text"] for _ in range(4)}
    assert len(texts) > 1  # without a seed
    nulls = dict.fromkeys(("seed", "n", "temperature", "top_p", "stop", "logprobs", "model"))
    assert running.post("/v1/completions", body | nulls).status_code == 200
    ids = running.model.prompt_ids(PROMPTS[0])
    sure = {"max_tokens": 8, "temperature": 0}
    of_text, of_ids = (
        running.post("/v1/completions", sure | {"prompt": prompt}).json()
        for prompt in (PROMPTS[0], ids)
    )
    assert of_text["choices"] == of_ids["choices"] and of_text["usage"] == of_ids["usage"]
    assert running.post("/v1/completions", sure | {"prompt": [10**6]}).status_code == 400


def test_predictions_and_the_page(running: Running) -> None:
    body = {"instruction": "say it", "input": "loud", "temperature": 1}
    answer = running.post("/predict", body | {"max_tokens": 5}).json()
    assert list(answer) == ["answer"] and isinstance(answer["answer"], str)
    assert running.post("/predict", {}).status_code == 400
    page = httpx.get(running.url).text
    assert running.model.name in page and "http" not in page.replace("http-equiv", "")


def test_limits_and_keys(mount: Mount) -> None:
    with serving(mount, "gpt", queue=2, rows=1, body=2000, api_key="secret") as running:
        assert running.post("/v1/completions", {"prompt": "a"}).status_code == 401
        assert httpx.get(f"{running.url}/health").status_code == 200
        keyed = {"headers": {"Authorization": "Bearer secret"}}
        assert running.post("/predict", {"prompt": "a" * 3000}, **keyed).status_code == 413
        chunks = (b"x" * 500 for _ in range(9))
        found = httpx.post(f"{running.url}/predict", content=chunks, **keyed)
        assert found.status_code == 413
        asked = {"prompt": ["a"] * 3, "max_tokens": 3}
        found = running.post("/v1/completions", asked, **keyed)
        assert found.status_code == 200
        found = running.post("/v1/completions", asked | {"prompt": ["a"] * 4}, **keyed)
        assert (found.status_code, found.json()["error"]["code"]) == (400, None)
        assert running.post("/v1/completions", asked | {"prompt": "a"}, **keyed).status_code == 200


def test_a_client_that_goes_away_frees_its_place(mount: Mount) -> None:
    with serving(mount, "gpt", rows=1) as running:
        engine = running.server.engine
        assert engine is not None
        ended = threading.Event()
        asked = {"prompt": "a", "max_tokens": 64, "temperature": 0, "stream": True}
        with httpx.stream("POST", f"{running.url}/v1/completions", json=asked) as response:
            next(response.iter_lines())
        for _ in range(200):
            if not engine.running:
                ended.set()
                break
            threading.Event().wait(0.05)
        assert ended.is_set()
        assert running.post("/predict", {"prompt": "a", "max_tokens": 2}).status_code == 200


def test_a_client_that_waits_for_a_whole_answer_and_goes_away(mount: Mount) -> None:
    with serving(mount, "gpt", rows=1) as running:
        slow(running, 0.2)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{running.url}/predict", json={"prompt": "a", "max_tokens": 60}, timeout=1)
        assert no_texts_within(running, 4)
        assert 'status="499"' in httpx.get(f"{running.url}/metrics").text


def test_a_request_that_takes_too_long_is_given_up(mount: Mount) -> None:
    with serving(mount, "gpt", rows=1, seconds=1.0) as running:
        slow(running, 0.2)
        found = running.post("/predict", {"prompt": "a", "max_tokens": 60})
        assert (found.status_code, found.json()["error"]["code"]) == (504, "deadline")
        assert no_texts_within(running, 4)


def test_a_step_that_fails_ends_its_requests_alone(
    mount: Mount, capsys: pytest.CaptureFixture[str]
) -> None:
    """And without a traceback or a prompt in the log."""
    with serving(mount, "gpt") as running:
        model, forward = running.model.model, running.model.model.forward

        def fail(*_: Any, **__: Any) -> None:
            raise RuntimeError("add one: 4")

        model.forward = fail
        asked = {"prompt": PROMPTS[0], "max_tokens": 4}
        for body in (asked, asked | {"echo": True, "logprobs": 1}):
            found = running.post("/v1/completions", body)
            assert found.status_code == 500 and "add one" not in found.text
        model.forward = forward
        assert running.post("/v1/completions", asked).status_code == 200
    said = capsys.readouterr().err
    assert "Traceback" not in said and "add one" not in said


def test_a_model_without_a_decoder_of_its_own(mount: Mount) -> None:
    """As BART: by `model.generate`, with the same samples as an evaluation's."""
    make_family("bart", mount.models / "bart")
    with serving(mount, "bart") as running:
        asked = {"prompt": PROMPTS[0], "max_tokens": 9, "temperature": 1, "seed": 3}
        several = running.post("/v1/completions", asked | {"n": 3}).json()["choices"]
        assert len({one["text"] for one in several}) > 1
        one = running.post("/v1/completions", asked).json()["choices"]
        assert one[0]["text"] == several[0]["text"]
        assert running.post("/v1/completions", asked | {"logprobs": 1}).status_code == 400
        assert running.post("/v1/completions", asked | {"best_of": 2}).status_code == 400
        streamed = asked | {"stream": True}
        with httpx.stream("POST", f"{running.url}/v1/completions", json=streamed) as response:
            lines = [line for line in response.iter_lines() if line]
        assert lines[-1] == "data: [DONE]"


def test_prompts_and_answers_fit_the_models_positions(mount: Mount) -> None:
    with serving(mount, "gpt", prompt=400, tokens=400) as running:
        asked = {"prompt": " ".join("123456789" * 20), "temperature": 0}
        found = running.post("/v1/completions", asked | {"max_tokens": 400})
        assert found.json()["error"]["code"] == "context_length_exceeded"
        assert running.post("/v1/completions", asked).status_code == 200


def slow(running: Running, seconds: float) -> None:
    """Let each step of the model take a while."""
    model, forward = running.model.model, running.model.model.forward

    def slowly(*given: Any, **named: Any) -> Any:
        time.sleep(seconds)
        return forward(*given, **named)

    model.forward = slowly


def no_texts_within(running: Running, seconds: float) -> bool:
    engine, last = running.server.engine, time.monotonic() + seconds
    assert engine is not None
    while engine.running or engine.waiting:
        if time.monotonic() > last:
            return False
        time.sleep(0.05)
    return True


def test_scores_are_those_of_an_evaluation(mount: Mount) -> None:
    texts = [{"input": f"is it {n}?"} for n in range(5)]
    write_data(mount, "texts", [], texts)
    request = make_job(
        "clf", model_init_name="bert", data_name="texts", no_train=True, bf16=False,
        training_run_name="scores",
    )  # fmt: skip
    folder: Path = run_job(request, mount)
    items = json.loads((folder / "preds.json").read_text())
    with serving(mount, "bert") as running:
        found = running.post("/score", {"records": texts}).json()["scores"]
        assert [one["pred_score"] for one in found] == pytest.approx(
            [item["pred_score"] for item in items], rel=1e-6
        )
        assert running.post("/score", {"records": [{"text": "a"}]}).status_code == 400
        assert running.post("/predict", {"prompt": "a"}).status_code == 400
