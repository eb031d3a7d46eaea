# The shell side of every stage's start file, which sources this one: the shell takes what comes before the stage's own
# arguments for options of the deepspeed launcher, and hands the start file itself to it.
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
PATH="$here/../.venv/bin:$PATH"
export PATH
launcher_options=
seen=no
value=no # whether the word may be the value of the launcher option before it
for argument; do
    shift
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
# shellcheck disable=SC2086 # launcher options are words without spaces
exec deepspeed $launcher_options "$here/$(basename -- "$0")" "$@"
