"""Several adapters of one base, by OpenAI's client: each answers as an evaluation of it does."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from conftest import GPT_TINY, T5_TINY, make_mount, write_data
from served import serving

from workflow import make_job, run_job
from workflow.cli.main import main
from workflow.runs.mount import Mount

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])
PROMPTS = [f"add one: {' '.join(str(n))}" for n in (4, 71, 999, 12345, 8, 55)]
TUNED = {"loud": ("lora", "YES"), "soft": ("prompt", "no no")}
"""The tuning method and the answer that each adapter learns."""


@pytest.fixture(scope="module", params=[GPT_TINY, T5_TINY], ids=["gpt", "t5"])
def tuned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Mount:
    """A mount with a base and an adapter of each method, trained for a few steps."""
    mount = make_mount(tmp_path_factory.mktemp("tuned"))
    shutil.copytree(request.param, mount.models / "base")
    for name, (method, answer) in TUNED.items():
        records = [{"prompt": prompt, "completion": answer} for prompt in PROMPTS]
        write_data(mount, name, records, records)
        job = make_job(
            "seq2seq", model_init_name="base", data_name=name, training_run_name=name,
            tuning=method, max_steps=8, save_steps=8, train_batch_size=6, learning_rate=0.3,
            bf16=False, eval_on_start=False, max_new_tokens=8,
        )  # fmt: skip
        run_job(job, mount)
    return mount


def evaluated(mount: Mount, model: str) -> list[str]:
    job = make_job(
        "seq2seq", model_init_name=model, data_name="loud", no_train=True, bf16=False,
        max_new_tokens=8, training_run_name="evaluated", overwrite_output_dir=True,
    )  # fmt: skip
    (path,) = run_job(job, mount).glob("temperature=*.json")
    items = json.loads(path.read_text())
    return [item["generations"][0]["lm_postprocess"] for item in items]


def test_each_adapter_answers_as_its_evaluation(tuned: Mount) -> None:
    """Also while the others are asked, and with the weights of one base in memory."""
    checkpoints = {name: f"{name}/checkpoint-8" for name in TUNED}
    expected = {"base": evaluated(tuned, "base")}
    expected |= {name: evaluated(tuned, checkpoint) for name, checkpoint in checkpoints.items()}
    assert len({*map(tuple, expected.values())}) == len(expected)
    with serving(tuned, "base", checkpoints) as running:
        client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)
        assert [model.id for model in client.models.list()] == ["base", *TUNED]

        def ask(of: tuple[str, str]) -> str:
            found: Any = client.completions.create(
                model=of[0], prompt=of[1], max_tokens=8, temperature=0
            )
            return str(found.choices[0].text).strip()

        asked = [(name, prompt) for prompt in PROMPTS for name in expected]
        with ThreadPoolExecutor(8) as threads:
            answers = dict(zip(asked, threads.map(ask, asked), strict=True))
        for name, texts in expected.items():
            assert [answers[name, prompt] for prompt in PROMPTS] == texts, name
        with pytest.raises(openai.NotFoundError, match="served: base, loud, soft"):
            ask(("other", "a"))
        of_base = {one.data_ptr() for one in running.model.model.parameters()}
        for name in TUNED:
            model = running.server.models[name].model
            own = [one for one in model.parameters() if one.data_ptr() not in of_base]
            assert sum(one.numel() for one in own) < 0.2 * sum(
                one.numel() for one in model.parameters()
            )


def test_what_is_no_adapter_of_the_model_is_refused(
    tuned: Mount, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tuned.models / "base", tuned.models / "other", dirs_exist_ok=True)
    serve = ["serve", "--mount", str(tuned.root)]
    assert main([*serve, "base", "--adapter", "loud", "--adapter", "a=b", "--adapter", "a=c"]) == 2
    assert capsys.readouterr().err == (
        "--adapter: loud (expected NAME=RUN or NAME=RUN/checkpoint-N). Hint: name the adapter for "
        "requests.\n"
        "--adapter: a twice (expected different names). Hint: give each adapter a name of its "
        "own.\n"
        "(2 problems in all)\n"
    )
    assert main([*serve, "base", "--adapter", "a=other"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "--adapter a=other: a whole model (expected an adapter of base). Hint: serve a whole model "
        "by a server of its own."
    )
    base = tuned.models / "base"
    assert main([*serve, "other", "--adapter", "a=loud"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"--adapter a=loud/checkpoint-8: an adapter of {base} (expected an adapter of "
        "other). Hint: serve adapters of another model by another server."
    )
