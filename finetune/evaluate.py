"""Generate a model's answers to the examples of a task and score them.

    python -m finetune.evaluate MODEL --task NAME --data FILE [task.KEY=VALUE ...]
    deepspeed --module finetune.evaluate MODEL --task NAME --data FILE ...     on all GPUs

MODEL is a Hugging Face folder, a hub name, the folder of a LoRA adapter, or a run folder (its export). The folder of
the evaluation gets settings.json, generations.jsonl (every answer with its verdict) and evaluation.json (the figures).
The same command goes on with an evaluation that was interrupted.
"""

from pretrain.runtime.preemption import preemption

if __name__ == "__main__":
    preemption.listen()  # before imports that take seconds

import argparse
import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
import tqdm
import yaml

from finetune.decoding_step import DecodingStep
from finetune.generate import (
    Decoding,
    answer_batch,
    answer_likelihoods,
    check_room,
    make_batches,
    over_ranks,
)
from finetune.generations import Generations, Record
from finetune.prompts import Frame, make_frame
from finetune.recipe import read_recipe
from finetune.report import report, table
from finetune.tasks import TASKS, Example, Task, make_task
from pretrain.model.loading import LoadedModel, context_length, find_base, find_model, fingerprint, load_model
from pretrain.runtime import yaml_file
from pretrain.runtime.atomic_write import write_text
from pretrain.runtime.command import exit_rank, run_command
from pretrain.runtime.command_line import CommandLine, whole_number
from pretrain.runtime.distributed import Ranks, start_ranks
from pretrain.runtime.errors import DiptychError
from pretrain.runtime.rank_environment import rank_environment


def main(argv: Sequence[str]) -> int:
    """The command ``python -m finetune.evaluate``."""
    arguments = read_arguments(argv)
    if rank_environment(os.environ)["WORLD_SIZE"] != "1":
        ranks = start_ranks(60)
    else:
        ranks = Ranks(0, 1, torch.accelerator.current_accelerator() or torch.device("cpu"))
    task = make_task(arguments.task, **arguments.settings)
    examples = ranks.on_main(lambda: task.examples(arguments.data))[: arguments.limit]
    # Only rank 0 needs the training examples, and there may be many.
    files = arguments.train if ranks.is_main else ()
    training = ranks.agree(lambda: [example for file in files for example in task.examples(file)])
    folder = arguments.out or _default_folder(arguments)
    if arguments.rescore:
        ranks.on_main(lambda: _rescore(arguments, folder, task, examples, training))
    else:
        preemption.words = "before the end; start it again: what was answered is kept"
        evaluation = Evaluation(arguments, folder, task, examples, ranks)
        with ranks.leaving_together():
            evaluation.run(training)
    return 0


class Evaluation:
    """Evaluates a model on the examples of a task.

    Args:
        arguments: Of :func:`read_arguments`.
        folder: Where the files go.
        task: The task.
        examples: Its examples.
        ranks: All of them load the model and share the examples.
    """

    def __init__(
        self, arguments: argparse.Namespace, folder: Path, task: Task, examples: Sequence[Example], ranks: Ranks
    ) -> None:
        self.arguments, self.task, self.ranks = arguments, task, ranks
        self.generations = Generations(folder, examples)
        self.model, identity = self._load()
        tokenizer = self.model.tokenizer
        self.frame = make_frame(tokenizer, arguments.style, task, bos=self.model.bos)
        self.decoding = Decoding(
            self.frame.stop,
            tokenizer.pad,
            task.max_new_tokens,
            arguments.temperature,
            arguments.top_p,
            arguments.seed,
        )
        self.labels = task.labels(examples) or ()
        self.label_ids = [[*ids, self.frame.stop[0]] for ids in tokenizer.encode_batch(self.labels)]
        self.prompts, self.cut = self._prompts(examples)
        self.batches = make_batches([len(prompt) for prompt in self.prompts], arguments.batch_size)
        self.settings = _settings(arguments, task, examples, identity, self.model, self.frame, self.decoding)
        self.seconds = self.tokens = 0.0

    def run(self, training: Sequence[Example]) -> None:
        """Answers the remaining examples, then scores all of them. Collective."""
        ranks, store = self.ranks, self.generations
        notes = [*self.model.notes, *self.model.prompt_notes]
        if note := ranks.agree(lambda: DecodingStep(self.model.lm, self.prompts, self.decoding.pad).note):
            notes.append(note)
        for note in notes if ranks.is_main else ():
            print(f"note: {note}", flush=True)
        pending = ranks.on_main(lambda: store.start(self.settings, self.batches))
        kept = len(self.prompts) - sum(map(len, pending))
        if kept and pending and ranks.is_main:
            print(f"goes on after {kept} of {len(self.prompts)} examples", flush=True)
        hidden = None if ranks.is_main else True  # None: tqdm hides the bar where the output is no terminal
        with tqdm.tqdm(total=len(self.prompts), initial=kept, unit="example", disable=hidden) as bar:
            for records in over_ranks(pending, self._answer, ranks, long=True):
                ranks.on_main(lambda records=records: store.append(records))  # type: ignore[misc]
                bar.update(len(records))
        speeds = ranks.gather((self.seconds, self.tokens))
        seconds = max(seconds for seconds, _ in speeds)
        rate = sum(tokens for _, tokens in speeds) / seconds if seconds else None
        run = {
            "ranks": ranks.world_size,
            "resumed_after": kept if pending else None,
            "generation_seconds": round(seconds, 3),
            "tokens_per_second": rate and round(rate, 1),
            "examples_cut": self.cut,
            "notes": notes,
        }

        def finish() -> None:
            store.finish()
            _finish(self.arguments, self.task, store, training, self.settings, run)

        ranks.on_main(finish)

    def _load(self) -> tuple[LoadedModel, str]:
        arguments, ranks = self.arguments, self.ranks
        trust = arguments.trust_remote_code

        def find() -> tuple[Path, Path | None, str]:
            folder = find_model(arguments.model, trust_remote_code=trust)
            base = find_base(folder, arguments.base, trust_remote_code=trust)
            return folder, base, fingerprint([folder] if base is None else [folder, base])

        folder, base, identity = ranks.on_main(find)
        device, dtype = ranks.device, arguments.dtype
        loaded = ranks.agree(lambda: load_model(folder, base, dtype=dtype, device=device, trust_remote_code=trust))
        return loaded, identity

    def _prompts(self, examples: Sequence[Example]) -> tuple[list[list[int]], int]:
        """Ids of the prompts, and how many of them had to be cut."""
        texts = self.model.tokenizer.encode_batch([example.prompt for example in examples])
        new = max(self.decoding.max_new_tokens, *map(len, self.label_ids), 0)
        limit = context_length(self.model.lm)
        room = limit - new if limit is not None and self.arguments.long_prompts == "cut" else None
        prompts = [self.frame.prompt(text, room) for text in texts]
        check_room(limit, prompts, new, [example.id for example in examples])
        whole = len(self.frame.lead) + len(self.frame.join)
        return prompts, sum(len(prompt) < whole + len(text) for prompt, text in zip(prompts, texts, strict=True))

    def _answer(self, batch: Sequence[int]) -> dict[int, Record]:
        """Records of a batch."""
        started = time.perf_counter()
        lm, tokenizer, examples = self.model.lm, self.model.tokenizer, self.generations.examples
        answers = answer_batch(lm, self.prompts, batch, self.decoding)
        if self.labels:
            asked = [self.prompts[number] for number in batch]
            likelihoods = answer_likelihoods(
                lm, asked, self.label_ids, pad=self.decoding.pad, batch_size=self.arguments.batch_size
            )
        self.seconds += time.perf_counter() - started
        records: dict[int, Record] = {}
        for place, number in enumerate(batch):
            example, answer = examples[number], answers[number]
            output = tokenizer.decode(answer.ids)
            self.tokens += len(answer.ids) + answer.stopped
            record = {
                "id": example.id,
                "prompt": example.prompt,
                "gold": example.gold,
                "output": output,
                "stopped": answer.stopped,
                "prompt_tokens": len(self.prompts[number]),
                "new_tokens": len(answer.ids) + answer.stopped,
            }
            if self.labels:
                found = zip(self.labels, likelihoods[place], strict=True)
                record["likelihoods"] = {label: asdict(likelihood) for label, likelihood in found}
            records[number] = record | _judged(self.task, example, output)
        return records


def _settings(
    arguments: argparse.Namespace,
    task: Task,
    examples: Sequence[Example],
    identity: str,
    model: LoadedModel,
    frame: Frame,
    decoding: Decoding,
) -> Record:
    """Everything that the answers depend on, as JSON values; paths of files are left out."""
    prompt = {
        "style": arguments.style,
        "separator": task.separator,
        "instruction": task.instruction,
        "long_prompts": arguments.long_prompts,
        **asdict(frame),
    }
    generation = {name: value for name, value in asdict(decoding).items() if name not in ("stop", "pad")}
    generation |= {"batch_size": arguments.batch_size, "dtype": model.dtype}
    generation["device"] = next(model.lm.parameters()).device.type
    return json.loads(  # type: ignore[no-any-return]
        json.dumps(
            {
                "model": identity,
                "tokenizer": model.tokenizer.fingerprint,
                "data": _data_fingerprint(examples),
                "examples": len(examples),
                "prompt": prompt,
                "generation": generation,
                "task": _judging(task),
            }
        )
    )


def _judging(task: Task) -> Record:
    """Settings of a task that only affect judging."""
    return task.model_dump(mode="json", exclude={"separator", "instruction", "max_new_tokens"})


def _data_fingerprint(examples: Sequence[Example]) -> str:
    digest = hashlib.sha256()
    for example in examples:
        parts = (example.id, example.prompt, example.gold, dict(example.facts))
        digest.update(json.dumps(parts, sort_keys=True).encode())
    return digest.hexdigest()


def _judged(task: Task, example: Example, output: str) -> Record:
    verdict = task.judge(example, output)
    return {"correct": verdict.correct, "reason": verdict.reason, "scores": dict(verdict.scores)}


def _rescore(
    arguments: argparse.Namespace,
    folder: Path,
    task: Task,
    examples: Sequence[Example],
    training: Sequence[Example],
) -> None:
    """Judges the answers of a finished evaluation again."""
    store = Generations(folder, examples)
    settings = store.reopen()
    if settings["task"]["task"] != task.task:
        raise DiptychError(f"--task: {folder} holds answers to the task {settings['task']['task']}, not {task.task}")
    for number, example in enumerate(examples):
        store.records[number] |= _judged(task, example, store.records[number]["output"])
    settings |= {"task": _judging(task), "data": _data_fingerprint(examples), "examples": len(examples)}
    store.finish()
    write_text(folder / "settings.json", json.dumps(settings, indent=1, ensure_ascii=False) + "\n")
    _finish(arguments, task, store, training, settings, {"judged_again": True})


def _finish(
    arguments: argparse.Namespace,
    task: Task,
    store: Generations,
    training: Sequence[Example],
    settings: Record,
    run: Record,
) -> None:
    """Writes evaluation.json and prints its table."""
    head = {"model": arguments.model, "task": task.task, "data": arguments.data, "style": settings["prompt"]["style"]}
    result = head | report(task, store, training if arguments.train else None) | {"settings": settings, "run": run}
    write_text(store.folder / "evaluation.json", json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(f"{table(result)}\n{store.folder}", flush=True)


def _default_folder(arguments: argparse.Namespace) -> Path:
    data = Path(arguments.data).absolute()
    name = f"{arguments.task}-{data.parent.name}-{data.name.partition('.')[0]}"
    if Path(arguments.model).expanduser().exists():
        return Path(arguments.model).expanduser() / "evaluation" / name
    return Path("evaluation", str(arguments.model).replace("/", "--"), name)


def read_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the command line; ``settings`` holds those of the task.

    Raises:
        DiptychError: An option is unknown, missing or wrong.
    """
    parser = CommandLine("finetune.evaluate", __doc__)
    add = parser.add_argument
    add("model", metavar="MODEL")
    add("--task", help=f"one of {', '.join(TASKS)}; default: what the model was fine-tuned for")
    add("--data", required=True, metavar="FILE", help="the examples, JSON Lines")
    add("--train", nargs="+", default=[], metavar="FILE", help="what the model was trained on: leaks are counted")
    add("--out", type=Path, metavar="DIR", help="default: MODEL/evaluation/TASK-DATA")
    add("--style", choices=("plain", "chat"), help="prompt; default: that of the fine-tuning, else plain")
    add("--long-prompts", choices=("error", "cut"), default="error", help="what to do with more than the context")
    add("--limit", type=whole_number(1), metavar="N", help="only the first N examples")
    add("--batch-size", type=whole_number(1), default=32, metavar="N", help="prompts computed at once (32)")
    add("--temperature", type=float, default=0.0, metavar="T", help="0: the likeliest token (default)")
    add("--top-p", type=float, default=1.0, metavar="P", help="draw among the likeliest tokens of this share")
    add("--seed", type=int, default=0, metavar="N", help="of the draws")
    add("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto", help="auto: as stored")
    add("--base", metavar="MODEL", help="base of a LoRA adapter, in place of the one that it names")
    add("--trust-remote-code", action="store_true", help="run Python code of the model, open pickled weights")
    add("--rescore", action="store_true", help="judge the answers of a whole evaluation again, without the model")
    settings = [word for word in argv if word.startswith("task.") and "=" in word]
    arguments = parser.read([word for word in argv if word not in settings])
    arguments.model = _model_of(arguments.model)
    arguments.settings = {}
    for setting in settings:
        key, _, value = setting.removeprefix("task.").partition("=")
        try:
            arguments.settings[key] = yaml_file.parse(value)
        except yaml.YAMLError:
            raise DiptychError(f"task.{key}: {value!r} is no valid YAML value") from None
    _follow_recipe(arguments)
    return arguments


def _model_of(given: str) -> str:
    """The folder or name to open: a run folder stands for its export."""
    folder = Path(given).expanduser()
    is_run = (folder / "checkpoints").is_dir() and not (folder / "config.json").exists()
    return str(folder / "export") if is_run and (folder / "export").is_dir() else given


def _follow_recipe(arguments: argparse.Namespace) -> None:
    """Fills in missing options from the recipe that the model was fine-tuned with."""
    recipe = read_recipe(Path(arguments.model).expanduser())
    if arguments.task is None:
        if recipe is None:
            raise DiptychError(f"--task: {arguments.model} does not say what it was fine-tuned for; name the task")
        arguments.task = recipe.task
    if recipe is not None and recipe.task == arguments.task:
        arguments.settings = recipe.settings | arguments.settings
        arguments.style = arguments.style or recipe.style
    arguments.style = arguments.style or "plain"


if __name__ == "__main__":
    exit_rank(run_command(main))
