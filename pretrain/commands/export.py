"""From a checkpoint to a plain Hugging Face folder: ``python -m pretrain.export CHECKPOINT_OR_RUN OUT``.

The folder opens with ``AutoModelForCausalLM.from_pretrained`` and ``AutoTokenizer.from_pretrained``, without code of
Diptych. Before it gets its name it is loaded again, and its logits are compared with those of the training run.
"""

import sys
from collections.abc import Sequence

from pretrain.runtime.command import run_command


def main(argv: Sequence[str]) -> int:
    """The command ``python -m pretrain.export``."""
    from pathlib import Path

    from pretrain.runtime.command_line import CommandLine

    parser = CommandLine("pretrain.export", __doc__)
    add = parser.add_argument
    add("source", metavar="CHECKPOINT_OR_RUN", type=Path, help="of a run: the chosen or the newest checkpoint")
    add("out", metavar="OUT", type=Path, help="must not exist")
    add("--trust-remote-code", action="store_true", help="run Python code that the model brings along")
    options = parser.read(argv)
    from pretrain.checkpoint.export import export_run  # here: importing it takes seconds

    print(export_run(options.source, options.out, trust_remote_code=options.trust_remote_code))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
