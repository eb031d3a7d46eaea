# What the three sbatch files share: starts $module with the given arguments, one task per rank, and tells Slurm what is
# to become of the job (docs/cluster.md). Exit statuses of a rank are listed in pretrain/runtime/command.py.
told= srun=
trap 'told=TERM; forward' TERM # the ranks write a checkpoint, and this script waits for them
trap 'told=USR1; forward' USR1
forward() { [ -z "$srun" ] || kill -s USR1 "$srun" 2>/dev/null || :; } # srun hands it on to the ranks
root=$(CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
export PATH="$root/.venv/bin:$PATH"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1 # this code, not that of the current folder
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}"
if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"; fi # not inherited since 22.05

tasks=${SLURM_NTASKS_PER_NODE:-${SLURM_TASKS_PER_NODE%%[(,]*}}
if [ "${DS_ACCELERATOR:-}" != cpu ] && [ "${SLURM_GPUS_ON_NODE:-$tasks}" != "$tasks" ]; then
    echo "error: $tasks task(s) but $SLURM_GPUS_ON_NODE GPU(s) on a node; add --ntasks-per-node=$SLURM_GPUS_ON_NODE" >&2
    exit 1
fi

# $SLURM_JOB_ID is no name for a task of an array: that of one task is the number of the whole array.
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job=${job:-$SLURM_JOB_ID}
ask() { # of a controller that may be too busy to answer
    for _ in 1 2 3 4 5 6; do squeue -h -j "$job" "$@" && return; sleep 5; done
}

# Nodes and tasks of a job may be changed while it waits; its own variables then say what it began with.
ranks=$(ask -O NumTasks | tr -d ' ')
if [ -n "${SLURM_NTASKS_PER_NODE:-}" ]; then
    ranks=$((SLURM_JOB_NUM_NODES * SLURM_NTASKS_PER_NODE))
    if [ $((${SLURM_NTASKS:-$ranks} % SLURM_NTASKS_PER_NODE)) != 0 ]; then
        echo "error: --ntasks=$SLURM_NTASKS is no multiple of --ntasks-per-node=$SLURM_NTASKS_PER_NODE; leave one out" >&2
        exit 1
    fi
    if [ "${SLURM_NTASKS:-$ranks}" != $ranks ]; then
        echo "note: $ranks ranks, $SLURM_NTASKS_PER_NODE on each node, and not the $SLURM_NTASKS that were asked for"
    fi
fi

# A job's state and comment outlive a requeue; the end of the comment counts failures since the job last got as far as a
# signal.
comment=$(ask -o %k) failures=0
case $comment in
*"[failures="[0-9]*"]")
    failures=${comment##*"[failures="}
    failures=${failures%"]"} comment=${comment%"[failures="*}
    comment=${comment%" "}
    ;;
"(null)") comment= ;;
esac
count() {
    text=$comment # of the job's owner
    [ "$1" = 0 ] || text="$text${text:+ }[failures=$1]"
    scontrol update JobId="$job" Comment="$text"
}
requeue() { # unless Slurm is ending the job itself: cancelled by its owner, or preempted
    case $(ask -o "%T %r") in "RUNNING "* | *TimeLimit | "") ;; *) return ;; esac
    echo "$module: $1; job $job is requeued"
    scontrol requeue "$job"
}

# --wait: when one rank has ended the others have a minute for their own last words; then Slurm ends them.
# shellcheck disable=SC2086 # one word or none
if [ -z "$told" ]; then
    srun --wait=60 --kill-on-bad-exit=0 --export=ALL ${ranks:+--ntasks=$ranks} python -u -m "$module" "$@" &
    srun=$!
    [ -z "$told" ] || forward
    while :; do # a signal ends a wait, not srun
        wait $srun
        status=$?
        kill -s 0 $srun 2>/dev/null || break
    done
    if [ $status,$told = 0,TERM ]; then status=143; fi # srun ends with 0 when it is ended itself (22.05)
else
    status=85
fi
case $status in
0 | 1 | 2 | 130) ;; # finished, or nothing that another start would mend
85 | 138 | 143) # 138, 143: the signal came before a rank could listen
    if [ "$failures" -gt 0 ]; then count 0; fi
    requeue "asked to stop, and saved"
    ;;
*)
    failures=$((failures + 1))
    if [ "$failures" -le "${DIPTYCH_MAX_RESTARTS:-3}" ]; then
        count "$failures"
        requeue "ended with status $status (failure $failures, restarted up to ${DIPTYCH_MAX_RESTARTS:-3} times)"
    else
        echo "error: $module: ended with status $status, failure $failures in a row; no restart (DIPTYCH_MAX_RESTARTS)" >&2
    fi
    ;;
esac
exit "$status"
