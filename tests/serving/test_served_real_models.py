"""A pretrained chat model over HTTP, by OpenAI's client, and an adapter of it."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from conftest import make_mount, write_data
from served import serving

from workflow import make_job, run_job

pytestmark = [pytest.mark.real, pytest.mark.allow_hosts(["127.0.0.1"])]
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def test_smollm2_and_an_adapter_of_it_chat(smollm2: Path, tmp_path: Path) -> None:
    mount = make_mount(tmp_path / "mount")
    (mount.models / "smol").symlink_to(smollm2)
    turns = [*QUESTION, {"role": "assistant", "content": "No idea!"}]
    write_data(mount, "chats", [{"messages": turns}] * 4, [{"messages": turns}])
    job = make_job(
        "seq2seq", model_init_name="smol", data_name="chats", training_run_name="lazy",
        tuning="lora", max_steps=8, save_steps=8, eval_steps=8, train_batch_size=4,
        learning_rate=5e-3, bf16=False, eval_on_start=False, max_new_tokens=12,
    )  # fmt: skip
    run_job(job, mount)
    with serving(mount, "smol", {"lazy": "lazy/checkpoint-8"}, rows=2, queue=2) as running:
        client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=9)
        asked: dict[str, Any] = {"messages": QUESTION, "max_tokens": 12, "temperature": 0}

        def ask(model: str) -> str:
            answer = client.chat.completions.create(model=model, **asked)
            return str(answer.choices[0].message.content)

        with ThreadPoolExecutor(8) as threads:  # those that find no place come again
            answers = list(threads.map(ask, ["smol", "lazy"] * 4))
        assert {*answers[::2]} == {"The capital of France is Paris."}
        assert {*answers[1::2]} == {"No idea!"}
        stream = client.chat.completions.create(
            model="smol", stream=True, logprobs=True, top_logprobs=2, **asked
        )
        parts = [chunk.choices[0] for chunk in stream]
        assert "".join(part.delta.content or "" for part in parts) == answers[0]
        assert parts[-1].finish_reason == "stop"
        drawn = {
            client.chat.completions.create(
                model="smol", messages=QUESTION, max_tokens=12, temperature=1.5, seed=seed, n=2,
                stop=["."], frequency_penalty=0.5, top_p=0.95,
            ).choices[1].message.content
            for seed in range(3)
        }  # fmt: skip
        assert len(drawn) > 1 and not any("." in str(text) for text in drawn)
