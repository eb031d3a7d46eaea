#!/bin/sh
""":"
# One file, two languages: a shell reads this header and hands the file to the deepspeed launcher; the launcher starts
# it with Python on every rank, which takes the header for a string and goes on below.
#
#   deepspeed [launcher options] launch/pretrain.sh [CONFIG.yaml] [key=value ...]
#   bash launch/pretrain.sh [launcher options] [CONFIG.yaml] [key=value ...]
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
PATH="$here/../.venv/bin:$PATH"
export PATH
launcher_options=
seen=no
for argument; do
    shift
    case $seen,$argument in
    no,--help | no,-h | no,--dry-run | no,*.yaml | no,*.yml) seen=yes ;;
    no,-*) ;;
    no,*=*) seen=yes ;;
    esac
    if [ $seen = no ]; then
        launcher_options="$launcher_options $argument"
    else
        set -- "$@" "$argument"
    fi
done
case "${1-}" in --help | -h) exec python "$here/pretrain.sh" "$@" ;; esac
command -v deepspeed >/dev/null || { echo "error: no deepspeed on the PATH; run make setup" >&2; exit 1; }
# shellcheck disable=SC2086 # launcher options are words without spaces
exec deepspeed $launcher_options "$here/pretrain.sh" "$@"
":"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pretrain.__main__ import main
from pretrain.command import exit_rank, run_command

if __name__ == "__main__":  # not in a worker process that prepares data
    exit_rank(run_command(main))
