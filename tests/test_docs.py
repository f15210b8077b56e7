"""README and docs: links and named flags exist, and commands run.

`bash` and `python` blocks are run, on tiny models and data. An `sh` block needs a cluster, a
network, GPUs or a large model: its commands are only parsed, with all their flags. A block with
title="FILE" is a file that commands read.
"""

import argparse
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, T5_TINY, make_t5, write_hub_folder
from forks import Fork, run_script

from benchmarks.__main__ import BENCHMARKS
from gpu_checks.readme import ROUNDS
from research.__main__ import PROOFS
from scripts.make_flags_page import PAGE, make_page
from workflow.cli.main import _parser
from workflow.cluster.kubernetes.settings import Settings
from workflow.cluster.legacy_command import SCRIPTS
from workflow.cluster.parse import Options, read_words
from workflow.cluster.resources import ALIASES as CLUSTER_ALIASES
from workflow.cluster.resources import Cluster
from workflow.config.flags import flags_of
from workflow.config.job import JOB_FLAGS
from workflow.config.launch import LaunchOptions
from workflow.config.parse import ALIASES, parse_command_line
from workflow.config.task_specs import best_metrics

README = ROOT / "README.md"
PAGES = [
    README, *(ROOT / name for name in ("ARCHITECTURE.md", "CHANGELOG.md", "containers/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]  # fmt: skip
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
EXECUTED = ("bash", "python")
LANGUAGES = (*EXECUTED, "sh", "json", "text")
OTHER_COMMANDS = {
    "cp", "curl", "pip", "sleep", "done", "[", "docker", "enroot", ".venv/bin/pip",
    ".venv/bin/tensorboard", ".venv/bin/wandb", ".venv/bin/mkdocs",
}  # fmt: skip
FOREIGN_FLAGS = {
    "help", "help_all",  # argparse
    "shutdown-timeout", "nnodes", "nproc-per-node", "rdzv-backend", "rdzv-endpoint",
    "rdzv-conf", "local-addr",  # torchrun
    "kill-on-bad-exit", "ntasks-per-node", "gpus-per-node",  # srun
    "signal", "test-only", "requeue", "no-requeue", "job-name", "open-mode",
    "nodes", "partition",  # sbatch
    "user", "ipc", "ulimit", "gpus", "network", "volume", "rm", "build-arg",  # docker
    "nv", "pwd", "bind", "output",  # apptainer, enroot
    "logdir", "strict", "site-dir",  # tensorboard, mkdocs
    "extra", "cuda", "constraint",  # scripts/setup, pip
    "records", "tokenizer",  # benchmarks
    "processes", "only",  # scripts/test_gpu
}  # fmt: skip


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    language: str
    title: str | None
    text: str

    @property
    def commands(self) -> list[list[str]]:
        """The words of each simple command."""
        return [words for line in self.lines for words in _simple_commands(line)]

    @property
    def lines(self) -> list[str]:
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def _simple_commands(line: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word and set(word) <= set(";&|"):
            while words and (words[0] in ("while", "do", "then", "if") or "=" in words[0]):
                words.pop(0)
            if words:
                yield words
            words = []
        else:
            words.append(word)


def blocks_of(page: Path) -> tuple[list[Block], str]:
    """The fenced blocks of a page, and its text without them."""
    blocks, prose = [], []
    open_fence: tuple[str, str] | None = None
    lines: list[str] = []
    for line in page.read_text(encoding="utf-8").splitlines():
        fence = re.match(r"\s*```(\w*)(.*)", line)
        if fence and open_fence is None:
            open_fence, lines = (fence[1], fence[2]), []
        elif fence:
            assert open_fence is not None
            title = re.search(r'title="([^"]+)"', open_fence[1])
            text = "\n".join(lines) + "\n"
            blocks.append(Block(page, open_fence[0], title and title[1], text))
            open_fence = None
        elif open_fence:
            lines.append(line)
        else:
            prose.append(line)
    assert open_fence is None, f"{page}: a fence that does not end"
    return blocks, "\n".join(prose)


BLOCKS = [block for page in PAGES for block in blocks_of(page)[0]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a mount of tiny models, and the files that the pages show."""
    folder = tmp_path_factory.mktemp("docs")
    models = folder / "mount" / "models"
    write_hub_folder(make_t5(), models / "flan-t5-small", "safetensors")
    shutil.copytree(T5_TINY, models / "t5-tiny")
    (folder / "mount" / "data").mkdir()
    for block in BLOCKS:
        if block.title is not None:
            file, text = folder / block.title, ROUNDS.sub(r"\1", block.text)
            assert not file.exists() or file.read_text() == text, f"two versions of {block.title}"
            file.write_text(text)
    project = folder / "shared" / "workflow"
    project.mkdir(parents=True)
    (project / "seq2seq.py").touch()
    (folder / "run_workflow.py").write_text(
        "import sys\nfrom workflow.cli.main import main\nsys.exit(main())\n"
    )
    return folder


# --- links and sizes -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_somewhere(name: str) -> None:
    page = ROOT / name
    prose = re.sub(r"`[^`\n]*`", "", blocks_of(page)[1])
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors_of(file)):
            broken.append(target)
    assert not broken


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", blocks_of(page)[1], re.MULTILINE)
    texts = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-") for text in texts}


def test_the_pages_that_code_names_exist() -> None:
    folders = (
        "workflow", "benchmarks", "research", "gpu_checks", "scripts", "tests", "containers",
    )  # fmt: skip
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.py")]
    named = {page for file in files for page in re.findall(r"docs/[\w/-]+\.md", file.read_text())}
    assert named and not [page for page in named if not (ROOT / page).is_file()]


def test_pages_are_short() -> None:
    lines = {name: len((ROOT / name).read_text().splitlines()) for name in NAMES}
    assert lines["README.md"] <= 150
    long = {name for name, count in lines.items() if count > 200}
    tutorials = {"docs/tutorial.md", "docs/tutorial_soft_prompt.md"}
    assert long == {"docs/operate/performance.md", "docs/use/flags.md", *tutorials}  # tables


def test_the_list_of_flags_is_the_one_of_the_declarations() -> None:
    assert PAGE.read_text() == make_page(), "run scripts/make_flags_page.py"


def test_every_setting_and_metric_is_described() -> None:
    kubernetes = (ROOT / "docs/operate/kubernetes.md").read_text()
    assert [name for name in Settings.model_fields if f"`{name}`" not in kubernetes] == []
    for page, task in (("evaluation", "seq2seq"), ("scoring", "clf")):
        text = (ROOT / "docs" / "use" / f"{page}.md").read_text()
        assert [m for m in best_metrics(task) if f"`{m}`" not in text] == []


# --- commands ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_block_says_what_it_is(name: str) -> None:
    commands = re.compile(
        r"(python3|scripts/|\.venv/bin/|[a-z]+/build|docker|srun) ?", re.MULTILINE
    )
    for block in blocks_of(ROOT / name)[0]:
        assert block.language in LANGUAGES, block.text
        if block.language == "json":
            json.loads(block.text)
        if block.language == "text":
            assert not any(commands.match(line) for line in block.text.splitlines()), block.text


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_flags_that_exist(
    name: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    for block in blocks_of(ROOT / name)[0]:
        if block.language in ("bash", "sh"):
            for words in block.commands:
                check_command([word.replace("/shared", str(place / "shared")) for word in words])


def check_command(words: list[str]) -> None:
    """Parse a command; fail if it does not exist, or if something is wrong with its flags."""
    script = next((i for i, word in enumerate(words) if Path(word).name in SCRIPTS), None)
    module = words[words.index("-m") + 1] if "-m" in words else None
    rest = words[words.index("-m") + 2 :] if "-m" in words else []
    problems: list[Any] = []
    if module == "workflow" and rest[0] == "submit":
        problems = read_words(rest[1], rest[2:]).problems
        assert rest[1] in ("slurm", "kubernetes", "local")
    elif module == "workflow":
        _parser().parse_args(rest)
    elif script is not None:
        task = SCRIPTS[Path(words[script]).name]
        if "-h" not in words:
            problems = parse_command_line(task, "", words[script + 1 :])[2]
    elif module == "benchmarks":
        assert rest[0] == "-h" or rest[0] in BENCHMARKS
    elif module == "research":
        assert not rest or rest[0] in (*PROOFS, "all")
    elif words[0].startswith(("scripts/", "containers/")):
        assert (ROOT / words[0]).is_file()
    elif words[0] == ".venv/bin/python":
        assert (ROOT / words[1]).is_file()
    else:
        assert words[0] in OTHER_COMMANDS
    assert not problems, f"{shlex.join(words)}:\n" + "\n".join(map(str, problems))


@pytest.mark.parametrize("name", NAMES)
def test_every_flag_that_is_named_exists(name: str) -> None:
    declared = flags_of(LaunchOptions, Cluster, Options)
    known = {*JOB_FLAGS, *declared, *ALIASES, *CLUSTER_ALIASES, *FOREIGN_FLAGS}
    (verbs,) = (a for a in _parser()._actions if isinstance(a, argparse._SubParsersAction))
    for verb in verbs.choices.values():
        known |= {word.lstrip("-") for action in verb._actions for word in action.option_strings}
    named = re.findall(r"(?<![\w-])--([a-z][\w-]*\w)", (ROOT / name).read_text())
    assert sorted({flag for flag in named if flag not in known}) == []


def test_the_commands_of_the_pages_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the pages, the README first; later pages use the runs of earlier ones."""
    monkeypatch.setenv("WORKFLOW_MOUNT", str(place / "mount"))
    ran = 0
    for block in BLOCKS:
        if block.language == "python" and block.title is None:  # after the earlier ones of its page
            with (place / f"{block.page.stem}.py").open("a") as file:
                file.write(ROUNDS.sub(r"\1", block.text))
            run(block, place, Path(file.name))
            ran += 1
        for line in block.lines if block.language == "bash" else ():
            words = shlex.split(ROUNDS.sub(r"\1", line), comments=True)
            if words[:3] == ["python3", "-m", "workflow"]:
                run(block, place, place / "run_workflow.py", *words[3:])
            elif words[0] == "python3":
                run(block, place, ROOT / words[1], *words[2:])
            else:
                subprocess.run(["bash", "-c", line], cwd=place, check=True)
            ran += 1
    assert ran > 15


def run(block: Block, place: Path, script: Path, *words: str) -> None:
    """Run a script in a process of its own; it has to succeed."""
    with Fork(run_script, script, *words, folder=place) as process:
        _, errors = process.communicate()
        assert process.returncode == 0, f"{block.page}: {shlex.join(words)}\n{errors}"
