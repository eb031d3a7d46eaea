"""The program that trains a SentencePiece model; ``tokenizer_training.py`` starts it.

SentencePiece ends its process where it meets what it did not expect (0.2.2 does with the demo's corpus). In a process
of its own it ends nothing else. The first line of the input holds the settings as a JSON object, each line after it a
training text as a JSON string. The output is the model, or with the status ``COMPLAINED`` what SentencePiece says.
"""

import ctypes
import io
import json
import resource
import signal
import sys
from collections.abc import Iterator
from typing import IO

COMPLAINED = 3

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> int:
    """Trains; returns the exit status."""
    _follow_parent()
    import sentencepiece

    settings = json.loads(sys.stdin.buffer.readline())
    writer = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_texts(sys.stdin.buffer), model_writer=writer, **settings
        )
    except RuntimeError as error:
        sys.stdout.buffer.write(str(error).encode())
        return COMPLAINED
    sys.stdout.buffer.write(writer.getvalue())
    return 0


def _follow_parent() -> None:
    """Lives as long as the process that started this one, which also gets the signals that stop a run."""
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # an abort is reported by a message


def _texts(stream: IO[bytes]) -> Iterator[str]:
    for line in stream:
        yield json.loads(line)


if __name__ == "__main__":
    sys.exit(main())
