"""The page of a server in a browser: an answer, or a score, and no request to anyone else."""

import pytest
from conftest import BERT_TINY, GPT_TINY
from open_pages import MARKS, WIDTHS, opened_browser
from served import serving

from workflow.runs.mount import Mount

pytestmark = [*MARKS, pytest.mark.allow_hosts(["127.0.0.1"])]


@pytest.mark.parametrize("model", ["gpt", "bert"])
def test_the_page_shows_what_the_model_answers(mount: Mount, model: str) -> None:
    (mount.models / model).symlink_to({"gpt": GPT_TINY, "bert": BERT_TINY}[model])
    with serving(mount, model) as running, opened_browser() as browser:
        for width in WIDTHS.values():
            page = browser.new_page(viewport={"width": width, "height": 800})
            said: list[str] = []
            asked: list[str] = []
            page.on("console", lambda message, said=said: said.append(message.text))
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.goto(running.url)
            page.fill("#prompt", "add one: 4 7")
            page.click("#send")
            page.wait_for_function("document.querySelector('#note').textContent")
            assert page.inner_text("#note").endswith(" s")
            assert page.inner_text("#answer").strip()
            assert all(url.startswith((running.url, "data:")) for url in asked)
            assert said == []
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            page.close()
