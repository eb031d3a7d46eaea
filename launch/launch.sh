# The shell side of every stage's start file, which sources this one: the shell takes what comes before the stage's own
# arguments for options of the deepspeed launcher, and hands the start file itself to it.
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
PATH="$here/../.venv/bin:$PATH"
export PATH
launcher_options=
seen=no
value=no # whether the word may be the value of the launcher option before it
max_restarts=0 # ours: times that a run which failed is started again
before=
for argument; do
    shift
    case $seen,$before in
    no,--max_restarts) max_restarts=$argument before= ; continue ;;
    no,--hostfile | no,-H)
        # Without the file the launcher would quietly run on this machine alone.
        [ -f "$argument" ] || { echo "error: --hostfile $argument: no such file" >&2; exit 1; } ;;
    esac
    before=$argument
    case $seen,$argument in
    no,--max_restarts) continue ;;
    no,--max_restarts=*) max_restarts=${argument#*=}; continue ;;
    no,--hostfile=*)
        [ -f "${argument#*=}" ] || { echo "error: $argument: no such file" >&2; exit 1; } ;;
    esac
    case $seen,$value,$argument in
    no,*,--help | no,*,-h | no,*,--dry-run | no,*,*.yaml | no,*,*.yml | no,*,[!-]*=*) seen=yes ;;
    no,*,--force_multi | no,*,--module | no,*,--no_python | no,*,--no_local_rank | no,*,--bind_cores_to_rank) value=no ;;
    no,*,--quiet | no,*,--no_ssh | no,*,--no_ssh_check | no,*,--save_pid) value=no ;;
    no,*,-*=*) value=no ;;
    no,*,-*) value=yes ;;
    no,yes,*) value=no ;;
    no,no,*) seen=yes ;;
    esac
    if [ $seen = no ]; then
        launcher_options="$launcher_options $argument"
    else
        set -- "$@" "$argument"
    fi
done
case "${1-}" in --help | -h) exec python "$here/$(basename -- "$0")" "$@" ;; esac
command -v deepspeed >/dev/null || { echo "error: no deepspeed on the PATH; run make setup" >&2; exit 1; }
case $max_restarts in '' | *[!0-9]*) echo "error: --max_restarts needs a number" >&2; exit 1 ;; esac
case $launcher_options in
*--master_port* | *--hostfile* | *-H* | *--launcher*) ;;
*) # The launcher's own choice is always 29500, which a second run on this machine would find taken.
    port=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    launcher_options="$launcher_options --master_port=$port" ;;
esac
# shellcheck disable=SC2086 # launcher options are words without spaces
[ "$max_restarts" -gt 0 ] || exec deepspeed $launcher_options "$here/$(basename -- "$0")" "$@"
restarts=0 stopped=no
trap 'stopped=yes; kill -TERM $child' TERM INT HUP
while :; do
    # shellcheck disable=SC2086
    deepspeed $launcher_options "$here/$(basename -- "$0")" "$@" &
    child=$! status=0
    wait $child || status=$?
    [ $stopped = no ] || { wait $child && exit 0 || exit $?; }
    # Another start mends neither a user's mistake nor what a user stopped (the statuses are in pretrain/command.py).
    case $status in 0 | 1 | 2 | 130) exit $status ;; esac
    [ $restarts -lt "$max_restarts" ] || { echo "error: exit status $status after $restarts restarts" >&2; exit $status; }
    restarts=$((restarts + 1))
    echo "note: exit status $status; restart $restarts of $max_restarts" >&2
done
