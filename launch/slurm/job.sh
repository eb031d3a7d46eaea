# What the three sbatch files share: starts $module with the given arguments, one task per rank, and tells Slurm what is
# to become of the job (docs/cluster.md). Exit statuses of a rank are listed in pretrain/command.py.
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

# A job's state and comment outlive a requeue; the comment counts failures since the job last got as far as a signal.
ask() { # of a controller that may be too busy to answer
    for _ in 1 2 3 4 5 6; do squeue -h -j "$SLURM_JOB_ID" -o "$1" && return; sleep 5; done
}
failures=$(ask %k | sed -n 's/^failures=//p')
count() { scontrol update JobId="$SLURM_JOB_ID" Comment="failures=$1"; }
requeue() { # unless Slurm is ending the job itself: cancelled by its owner, or preempted
    case $(ask "%T %r") in "RUNNING "* | *TimeLimit | "") ;; *) return ;; esac
    echo "$module: $1; job $SLURM_JOB_ID is requeued"
    scontrol requeue "$SLURM_JOB_ID"
}

told=no
trap told=yes TERM # the ranks write a checkpoint, and this script waits for them
trap : USR1
# --wait: when one rank has ended the others have a minute for their own last words; then Slurm ends them.
# --ntasks: a job that was changed to other nodes while it waited keeps the number of tasks that it began with.
# shellcheck disable=SC2086 # one word or none
srun --wait=60 --kill-on-bad-exit=0 --export=ALL \
    ${SLURM_NTASKS_PER_NODE:+--ntasks=$((SLURM_JOB_NUM_NODES * tasks))} python -u -m "$module" "$@"
status=$?
if [ $status,$told = 0,yes ]; then status=143; fi # srun ends with 0 when it is ended itself (22.05)
case $status in
0 | 1 | 2 | 130) ;; # finished, or nothing that another start would mend
85)
    if [ "${failures:-0}" -gt 0 ]; then count 0; fi
    requeue "asked to stop, and saved"
    ;;
*)
    failures=$((${failures:-0} + 1))
    if [ "$failures" -le "${DIPTYCH_MAX_RESTARTS:-3}" ]; then
        count "$failures"
        requeue "ended with status $status (failure $failures, restarted up to ${DIPTYCH_MAX_RESTARTS:-3} times)"
    else
        echo "error: $module: ended with status $status, failure $failures in a row; no restart (DIPTYCH_MAX_RESTARTS)" >&2
    fi
    ;;
esac
exit "$status"
