"""A process that has imported the slow packages, and forks ranks from itself; `ranks.py` starts and drives it.

torch, DeepSpeed and transformers cost every process that imports them 5 to 10 s; a fork costs milliseconds. Each line
of the input is JSON: `[arguments of python, environment, log]`. The answer is two lines: the process id, and in the end
the exit status as `subprocess` gives it.
"""

import gc
import json
import os
import runpy
import sys

import datasets  # noqa: F401
import deepspeed  # noqa: F401
import peft  # noqa: F401
import sklearn.linear_model  # noqa: F401
import torch._inductor.compile_fx  # noqa: F401
import transformers  # noqa: F401
from transformers.models.llama import modeling_llama  # noqa: F401


def main() -> None:
    """Forks what is asked for; in the child, goes on as that program."""
    gc.freeze()  # a child's collector, and its end, pass over what it shares
    for line in sys.stdin:
        arguments, environment, log = json.loads(line)
        pid = os.fork()
        if pid == 0:
            return become(arguments, environment, log)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def become(arguments: list[str], environment: dict[str, str], log: str) -> None:
    os.setsid()
    out = os.open(log, os.O_WRONLY | os.O_CREAT)
    for stream, file in enumerate((os.open(os.devnull, os.O_RDONLY), out, out)):
        os.dup2(file, stream)
    os.environ.clear()
    os.environ.update(environment)
    if arguments[0] == "-m":
        sys.path[0], sys.argv = os.getcwd(), arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.path[0], sys.argv = os.path.dirname(arguments[0]), arguments
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    main()
