"""Tasks: what a model is asked, and when its answer is right. A new one is a subclass of ``Task`` and a line here."""

from typing import Any, Final

from pydantic import ValidationError

from finetune.tasks.exact_match import ExactMatch
from finetune.tasks.gsm8k import Gsm8k
from finetune.tasks.nl_regex import NlRegex
from finetune.tasks.open_qa import OpenQa
from finetune.tasks.sentiment import Sentiment
from finetune.tasks.task import Example, Task, Verdict
from finetune.tasks.text_to_sql import TextToSql
from pretrain.runtime.errors import DiptychError
from pretrain.runtime.suggestions import suggestion
from pretrain.runtime.yaml_file import validate

TASKS: Final[dict[str, type[Task]]] = {
    "nl_regex": NlRegex,
    "text_to_sql": TextToSql,
    "gsm8k": Gsm8k,
    "sentiment": Sentiment,
    "open_qa": OpenQa,
    "exact_match": ExactMatch,
}

__all__ = ["TASKS", "Example", "Task", "Verdict", "make_task"]


def make_task(name: str, /, **settings: Any) -> Task:
    """A task by its name.

    Raises:
        DiptychError: There is none of that name, or a setting is unknown or wrong.
    """
    if name not in TASKS:
        raise DiptychError(f"task: no task {name!r}; {suggestion(name, TASKS)}")
    known = [field for field in TASKS[name].model_fields if field != "task"]
    if "task" in settings:
        raise DiptychError(f"task.task: {name} has no such setting; known: {', '.join(known)}")
    try:
        return validate(TASKS[name], {"task": name, **settings})
    except ValidationError as error:
        problem = error.errors()[0]
    key = ".".join(["task", *(str(part) for part in problem["loc"])])
    if problem["type"] == "extra_forbidden":
        raise DiptychError(f"{key}: {name} has no such setting; {suggestion(str(problem['loc'][-1]), known)}")
    raise DiptychError(f"{key}: {problem['msg'].removeprefix('Value error, ')} (given {problem['input']!r})")
