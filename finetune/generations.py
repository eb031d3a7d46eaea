"""The folder of an evaluation: its settings, and the answers from which an interrupted evaluation resumes."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.tasks.task import Example
from pretrain.runtime.atomic_write import write_text
from pretrain.runtime.errors import DiptychError
from pretrain.runtime.locks import lock_run

Record = dict[str, Any]


class Generations:
    """Records by number of the example, and the file that holds them.

    While examples are answered, records are appended in the order in which they are ready; a whole evaluation's file
    is in the order of its examples.

    Args:
        folder: Of the evaluation.
        examples: Those of the evaluation.
    """

    def __init__(self, folder: Path, examples: Sequence[Example]) -> None:
        self.folder = folder
        self.path = folder / "generations.jsonl"
        self.examples = examples
        self.records: dict[int, Record] = {}

    def start(self, settings: Mapping[str, Any], batches: Iterable[Sequence[int]]) -> list[Sequence[int]]:
        """Makes the folder or reads what an earlier attempt left; returns the batches that are to be computed.

        A batch whose records are incomplete is dropped and computed again as a whole.

        Raises:
            DiptychError: The folder is of an evaluation with other settings, another process writes to it, or its file
                is broken.
        """
        self._lock()
        found = self._settings()
        if found is not None:
            if differences := list(_differences(found, settings)):
                raise DiptychError(
                    f"{self.folder}: holds an evaluation with other settings ({'; '.join(differences)}); give another "
                    "--out, or remove that folder"
                )
            self._read()
        elif self.path.exists():
            raise DiptychError(f"{self.path}: there is no settings.json beside it; give another --out")
        else:
            write_text(self.folder / "settings.json", json.dumps(settings, indent=1, ensure_ascii=False) + "\n")
        batches = list(batches)
        pending = [batch for batch in batches if not self.records.keys() >= set(batch)]
        for number in {number for batch in pending for number in batch}:
            self.records.pop(number, None)
        self._write(self.records)
        return pending

    def reopen(self) -> Record:
        """Reads a whole evaluation; returns its settings.

        Raises:
            DiptychError: It is not whole, or of other examples, or another process writes to it.
        """
        settings = self._settings()
        if settings is None or not self.path.is_file():
            raise DiptychError(f"{self.folder}: holds no evaluation that could be judged again")
        self._lock()
        self._read()
        if missing := [example.id for number, example in enumerate(self.examples) if number not in self.records]:
            raise DiptychError(
                f"{self.path}: has no answer to {len(missing)} of {len(self.examples)} examples, such as {missing[0]}; "
                "finish the evaluation first"
            )
        return settings

    def append(self, records: Mapping[int, Record]) -> None:
        """Adds records, each on the disk before the next is written."""
        with self.path.open("a", encoding="utf-8") as file:
            for number, record in records.items():
                file.write(_line(record))
                file.flush()
                self.records[number] = record

    def finish(self) -> None:
        """Puts the file in the order of the examples."""
        self._write(range(len(self.examples)))

    def _lock(self) -> None:
        """Makes the folder and locks it for this process."""
        try:
            note = lock_run(self.folder)
        except DiptychError as error:
            raise DiptychError(str(error).replace("run.folder", "--out", 1)) from None
        if note:
            print(note, flush=True)

    def _write(self, numbers: Iterable[int]) -> None:
        write_text(self.path, "".join(_line(self.records[number]) for number in numbers))

    def _settings(self) -> Record | None:
        path = self.folder / "settings.json"
        try:
            settings: Record = json.loads(path.read_text(encoding="utf-8"))
            whole = bool(settings["task"]["task"] and settings["prompt"]["style"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            raise DiptychError(f"{path}: damaged; give another --out")
        return settings

    def _read(self) -> None:
        if not self.path.exists():
            return
        numbers = {example.id: number for number, example in enumerate(self.examples)}
        lines = self.path.read_bytes().split(b"\n")
        # A line without a newline is a record whose writing was interrupted.
        for place, line in enumerate(lines[:-1], 1):
            try:
                record = json.loads(line)
                number = numbers.get(record["id"])
                asked = record["prompt"], record["gold"]
            except (ValueError, KeyError, TypeError):
                raise DiptychError(f"{self.path}:{place}: is no generation; give another --out") from None
            if number is None or asked != (self.examples[number].prompt, self.examples[number].gold):
                raise DiptychError(f"{self.path}:{place}: example {record['id']} is another in the data; give its file")
            self.records[number] = record


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def _differences(found: Any, wanted: Any, key: str = "") -> Iterable[str]:
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        for name in dict.fromkeys((*found, *wanted)):
            yield from _differences(found.get(name), wanted.get(name), f"{key}.{name}" if key else name)
    elif found != wanted:
        yield f"{key} {_short(found)} there, {_short(wanted)} here"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:12]}…{text[-8:]}"
