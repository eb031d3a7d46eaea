"""What README.md and docs/ show is accepted by the code: commands, settings, YAML, paths and links. Nothing is run."""

import argparse
import contextlib
import inspect
import re
import runpy
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import pytest
import yaml

import pretrain.tools.inspect
from finetune.config import FinetuneConfig
from finetune.evaluate import read_arguments as read_evaluation
from launch import planner, submit
from pretrain.config.loading import load_config, settings_help, split_arguments
from pretrain.config.sections import Config
from pretrain.engine.checks import check_with_libraries
from pretrain.runtime.command_line import CommandLine
from probes.arguments import read_arguments as read_probes

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(?P<language>\w*)\n(?P<block>.*?)^```$|(?<=\n\n)(?P<indented>(?: {4}[^\n]*\n)+)", re.M | re.S)
FORMS = {"block": str, "indented": inspect.cleandoc, "span": lambda text: " ".join(text.split())}
PROGRAMS = ("python", "deepspeed", "bash", "sbatch", "make")
PLACEHOLDERS = {"CONFIG": "configs/demo.yaml", "CONFIG.yaml": "configs/demo.yaml", "key=value": "", "...": ""}
LEAST = {"benchmarks": 10, "finetune": 3, "finetune.evaluate": 3, "launch plan": 6, "launch submit": 3, "make": 3}
LEAST |= {"pretrain": 15, "pretrain.inspect": 2, "pretrain.prepare": 3, "probes": 5, "python": 1, "yaml": 2}
FILE = r"\.(?:jsonl?|md|py|sbatch|sh|yaml)\b"
FOLDERS = ("benchmarks", "configs", "docs", "finetune", "launch", "pretrain", "probes", "tests")


class Snippet(NamedTuple):
    document: str
    line: int
    language: str
    text: str


def snippets(document: Path) -> Iterator[Snippet]:
    """Code blocks, and spans of code in the text (language ``span``)."""
    text, name = document.read_text(encoding="utf-8"), str(document.relative_to(ROOT))
    prose = BLOCK.sub(lambda block: re.sub(r"[^\n]", " ", block[0]), text)
    for found in [*BLOCK.finditer(text), *re.finditer(r"`(?P<span>[^`]+)`", prose)]:
        part, line = str(found.lastgroup), text.count("\n", 0, found.start()) + 1
        language = found["language"] if part == "block" else part
        yield Snippet(name, line + (part == "block"), language, FORMS[part](found[part]))


SNIPPETS = [snippet for document in DOCUMENTS for snippet in snippets(document)]


def commands(snippet: Snippet) -> Iterator[tuple[int, list[str]]]:
    """Line and words of our commands, as a shell splits them; optional words are given, variables have a value."""
    text = re.sub(r"(?<= )\[([^\[\]\n]*)\]", lambda optional: optional[1].replace("|", " "), snippet.text)
    values = re.findall(r"\bfor (\w+) in (\S+)", text) + re.findall(r'^(\w+)="(.*)"$', text, re.M)
    text = Template(text).safe_substitute(dict(values))
    following = snippet.line
    for joined in text.replace("\\\n", "\0").splitlines():
        line, following = following, following + 1 + joined.count("\0")
        if not re.search(rf"(^|\s)({'|'.join(PROGRAMS)}) ", joined):
            continue
        shell = shlex.shlex(joined.replace("\0", " "), posix=True, punctuation_chars=";&|")
        shell.whitespace_split = True
        words: list[str] = []
        for word in [*shell, ";"]:
            if not re.fullmatch("[;&|]+", word):
                words.append(PLACEHOLDERS.get(word, word))
                continue
            while words and re.fullmatch(r"do|[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words and words[0] in PROGRAMS:
                yield line, [word for word in words if word]
            words = []


class Checker:
    """Reads command lines and YAML as this project's commands would, and counts what it read."""

    def __init__(self, scratch: Path) -> None:
        self.scratch, self.checked = scratch, Counter[str]()
        launcher = Path(str(find_spec("deepspeed").origin)).parent / "launcher/runner.py"  # type: ignore[union-attr]
        self.launcher_options = set(re.findall(r'"(-[-\w]+)"', launcher.read_text(encoding="utf-8")))

    def problem(self, snippet: Snippet) -> str | None:
        line = snippet.line
        try:
            if snippet.language in ("python", "yaml"):
                self.block(snippet)
            else:
                for line, words in commands(snippet):  # noqa: B007
                    self.command(words)
        except (Exception, SystemExit) as error:  # what the command would end with
            return f"{snippet.document}:{line}: {error}"

    def block(self, snippet: Snippet) -> None:
        self.checked[snippet.language] += 1
        if snippet.language == "python":
            compile(snippet.text, snippet.document, "exec")
        elif "folder" in (tree := yaml.safe_load(snippet.text)):
            self.submit(snippet.text)
        else:  # sections of a config, over those of the embedded default
            default = yaml.safe_load(Path("pretrain/demo.yaml").read_text(encoding="utf-8"))
            Config.model_validate(default | {name: default.get(name, {}) | section for name, section in tree.items()})

    def command(self, words: Sequence[str]) -> None:
        program, *rest = words
        if unset := [word for word in words if "$" in word]:
            raise ValueError(f"{unset[0]}: a variable without a value")
        if program == "make":
            if not re.search(rf"^{re.escape(rest[0])}:", Path("Makefile").read_text(encoding="utf-8"), re.M):
                raise ValueError(f"make {rest[0]}: no such target")
            self.checked["make"] += 1
        elif program != "python":
            self.launched(program, rest)
        elif rest[0] != "-m":
            self.parsed(runpy.run_path(rest[0])["main"], rest[1:])
            self.checked["benchmarks"] += 1
        elif find_spec(rest[1]) is None:
            raise ValueError(f"{rest[1]}: no such module")
        else:
            self.module(rest[1], rest[2:])

    def launched(self, program: str, words: Sequence[str]) -> None:
        """``deepspeed|bash|sbatch OPTIONS launch/STAGE.sh ...``; with bash the options come behind the script."""
        place = next((n for n, word in enumerate(words) if re.match(r"launch/.+\.(sh|sbatch)$", word)), len(words))
        options, given = [*words[:place]], [*words[place + 1 :]]
        while program == "bash" and given and not re.search(r"^[^-].*=|\.yaml$", given[0]):
            options.append(given.pop(0))
        ours = {"--max_restarts"} if program == "bash" else set()
        names = {word.partition("=")[0] for word in options if word.startswith("-")} - ours
        if program != "sbatch" and (unknown := names - self.launcher_options):
            raise ValueError(f"{min(unknown)}: no option of the deepspeed launcher")
        if place < len(words):
            self.module(Path(words[place]).stem.replace("probe", "probes"), given)

    def module(self, name: str, words: Sequence[str]) -> None:
        """``python -m NAME WORDS``; without words it is only mentioned, or has its defaults."""
        if not words or "--help" in words:
            return
        if name in ("pretrain", "pretrain.prepare", "pretrain.inspect", "finetune"):
            if name == "pretrain.inspect":
                request = pretrain.tools.inspect.read_arguments(words)
                words = [str(request.data), *request.overrides]
            words = [word for word in words if name not in ("pretrain", "finetune") or word != "--dry-run"]
            if options := [word for word in words if word.startswith("-")]:
                raise ValueError(f"{options[0]}: no option of {name}")
            kind = FinetuneConfig if name == "finetune" else Config
            check_with_libraries(load_config(*split_arguments(words), kind))
        elif name == "probes":
            read_probes(words, "")
        elif name == "finetune.evaluate":  # the model, which knows its task, is not there
            read_evaluation([*words, *([] if "--task" in words else ["--task", "exact_match"])])
        elif name == "launch":
            name = f"launch {words[0]}"
            self.cluster(words[0], words[1:])
        elif name.startswith("probes."):
            self.parsed(import_module(name).main, words)
        self.checked[name] += 1

    def cluster(self, command: str, words: Sequence[str]) -> None:
        options = [word for word in words if word.startswith("-")]
        if command == "plan":
            found = planner.parse(words)
            planner._machines(found)
            planner._load(*split_arguments(found.words))
        elif command == "submit":
            (file,) = (Path(word) for word in words if word not in options)
            minimal = "folder: RUNS\npretrain: {config: configs/demo.yaml}"
            self.submit(file.read_text(encoding="utf-8") if file.exists() else minimal, *options)
        elif command != "status" or options:
            raise ValueError(f"launch {command} {' '.join(words)}: no such command")

    def submit(self, text: str, *options: str) -> None:
        pipeline = self.scratch / "pipeline.yaml"
        pipeline.write_text(re.sub(r"^folder: \S+", f"folder: {self.scratch}/runs", text, flags=re.M), encoding="utf-8")
        with contextlib.redirect_stdout(None):
            submit.main([str(pipeline), "--dry-run", *options])

    def parsed(self, main: Callable[..., Any], words: Sequence[str]) -> None:
        """A command that begins with an argument parser, up to there."""
        whole = argparse.ArgumentParser.parse_args

        def refuse(message: str) -> None:
            raise ValueError(message)

        def parse(parser: Any, given: Sequence[str] | None = None) -> None:
            parser.error = refuse
            whole(parser, given)
            raise StopIteration

        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(StopIteration):
            patch.setattr(sys, "argv", ["", *words])
            patch.setattr(argparse.ArgumentParser, "parse_args", parse)
            patch.setattr(CommandLine, "read", parse)
            main(*[words] * len(inspect.signature(main).parameters))


def test_commands_and_blocks_are_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    # The model of a command may be what another command makes.
    monkeypatch.setattr("pretrain.model.build._path_problem", lambda config: None)
    checker = Checker(tmp_path)
    problems = [problem for snippet in SNIPPETS if (problem := checker.problem(snippet))]
    assert not problems, "\n".join(problems)
    missed = {name: checker.checked[name] for name, count in LEAST.items() if checker.checked[name] < count}
    assert not missed, f"fewer than there were; mend the reader, or lower LEAST: {missed}"


def test_the_pipeline_shown_is_the_one_shipped() -> None:
    shipped = yaml.safe_load((ROOT / "configs/slurm/pipeline.yaml").read_text(encoding="utf-8"))
    assert shipped in [yaml.safe_load(snippet.text) for snippet in SNIPPETS if snippet.language == "yaml"]


def test_settings_are_known_and_survive_a_shell() -> None:
    known = re.findall(r"^  (\w+\.[\w.]+) = ", settings_help() + settings_help(FinetuneConfig), re.M)
    named = re.compile(rf"(?<![\w./-])(?:{'|'.join({key.partition('.')[0] for key in known})})(?!{FILE})(?:\.\w+)+")
    problems, count = [], 0
    for document, line, language, text in SNIPPETS:
        for key in named.findall(text) if language != "python" else ():
            count += 1
            if not any(f"{leaf}.".startswith(f"{key}.") or key.startswith(f"{leaf}.") for leaf in known):
                problems.append(f"{document}:{line}: {key}: no such setting")
        for word in re.findall(r"(?<![\w.'\"])[\w.]+=[{\[][^ ]*", text) if language not in ("python", "yaml") else ():
            problems.append(f"{document}:{line}: {word}: a shell splits it; quote the whole setting")
    assert not problems, "\n".join(problems)
    assert count >= 130, count


def test_paths_links_and_anchors_resolve() -> None:
    path = re.compile(rf"(?<![\w./-])(?:{'|'.join(FOLDERS)})/[\w./-]*[\w/-]")
    paths = [(f"{document}:{line}", name) for document, line, _, text in SNIPPETS for name in path.findall(text)]
    problems = [f"{place}: {name}: no such file" for place, name in paths if not (ROOT / name).exists()]
    links = 0
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for link in re.finditer(r"\]\(((?!\w+:)[^)\s#]*)(?:#([^)\s]+))?\)", text):
            links += 1
            target = document.parent / link[1] if link[1] else document
            if not target.exists() or (link[2] and link[2] not in anchors(target)):
                line = text.count("\n", 0, link.start()) + 1
                problems.append(f"{document.relative_to(ROOT)}:{line}: {link[0][1:]}: no such file or heading")
    assert not problems, "\n".join(problems)
    assert len(paths) >= 70 and links >= 45, (len(paths), links)


def anchors(document: Path) -> set[str]:
    headings = re.findall(r"^#+ +(.+?) *$", BLOCK.sub("", document.read_text(encoding="utf-8")), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
