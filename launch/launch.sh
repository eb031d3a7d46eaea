# The shell side of every stage's start file, which sources this one: the shell takes what comes before the stage's own
# arguments for options of the deepspeed launcher, and hands the start file itself to it.

# Ranks and the launcher of one machine get USR1 for whatever asks to stop: the launcher dies of it, while TERM would let it
# kill every rank that takes more than 30 s to write its checkpoint. A launcher of other machines knows TERM alone.
stopped= child= local=yes
tell() {
    stopped=$1
    [ -z "$child" ] || kill -s "$1" -- "-$child" 2>/dev/null || kill -s "$1" "$child" 2>/dev/null || :
}
ask() { if [ $local = yes ]; then tell USR1; else tell TERM; fi; }
trap ask TERM HUP USR1
trap 'tell INT' INT
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
PATH="$here/../.venv/bin:$PATH"
export PATH
script="$here/$(basename -- "$0")"
seen=no
value=no # whether the word may be the value of the launcher option before it
max_restarts=0 # ours: times that a run which failed is started again
port=free first= before=
[ ! -f /job/hostfile ] || local=no # where the launcher looks by itself: rank 0 may be on another machine
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
    case $seen,$argument in
    no,--master_port*) port=given ;;
    no,--hostfile* | no,-H | no,--launcher*) local=no ;;
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
    if [ $seen = yes ] && [ -n "$script" ]; then # the stage's first argument
        first=$argument
        set -- "$@" "$script"
        script=
    fi
    set -- "$@" "$argument"
done
[ -z "$script" ] || set -- "$@" "$script"
case $first in --help | -h) exec python "$here/$(basename -- "$0")" "$first" ;; esac
command -v deepspeed >/dev/null || { echo "error: no deepspeed on the PATH; run make setup" >&2; exit 1; }
case $max_restarts in '' | *[!0-9]*) echo "error: --max_restarts needs a number" >&2; exit 1 ;; esac
if [ $port = free ]; then # the launcher's own choice is always 29500, which a second run would find taken
    port=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    set -- "--master_port=$port" "$@"
fi

# The launcher and its ranks get a process group of their own (setsid), because a signal ends the launcher of one machine
# and none of its ranks; and rank 0 says here how it ended, because the launcher ends with 0 when a signal ended it.
said=$(mktemp)
DIPTYCH_STATUS_FILE=$said
export DIPTYCH_STATUS_FILE
trap 'rm -f "$said"' EXIT
alive() { kill -s 0 -- "-$child" 2>/dev/null; }
restarts=0
while :; do
    case $stopped in INT) exit 130 ;; ?*) exit 85 ;; esac # before the first start, or between two
    : >"$said"
    setsid deepspeed "$@" &
    child=$! status=0
    [ -z "$stopped" ] || tell "$stopped"
    wait $child || status=$?
    patience=6000 # tenths of a second in which ranks write a checkpoint
    if [ -z "$stopped" ]; then # ranks that outlive their launcher
        kill -s TERM -- "-$child" 2>/dev/null || :
        patience=600
    fi
    while alive && [ $patience -gt 0 ]; do sleep 0.1; patience=$((patience - 1)); done
    kill -s KILL -- "-$child" 2>/dev/null || :
    child= word=$(cat "$said")
    if [ -n "$word" ] && { [ -n "$stopped" ] || [ $status = 0 ]; }; then
        status=$word
    elif [ "$stopped,$local" = USR1,yes ] && [ $patience -gt 0 ]; then
        status=85 # it had not begun
    elif [ $status,$local = 0,yes ]; then
        status=70
    fi
    [ -z "$stopped" ] || exit "$status"
    # Another start mends neither a user's mistake nor what a user stopped (the statuses are in pretrain/runtime/command.py).
    case $status in 0 | 1 | 2 | 130) exit "$status" ;; esac
    if [ $restarts -ge "$max_restarts" ]; then
        [ "$max_restarts" = 0 ] || echo "error: exit status $status after $restarts restarts" >&2
        exit "$status"
    fi
    restarts=$((restarts + 1))
    echo "note: exit status $status; restart $restarts of $max_restarts" >&2
done
