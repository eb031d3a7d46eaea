#!/bin/bash
# mini_slurm.sh - a real multi-node Slurm on one machine, for tests.
#
#   mini_slurm.sh install            apt-get the packages (Debian, Ubuntu; root)
#   mini_slurm.sh start  [DIR]       munged + slurmctld + N slurmd's, waits until all nodes are idle
#   mini_slurm.sh stop   [DIR]       cancels jobs, ends the daemons by pid (DIR is kept: logs)
#   mini_slurm.sh status [DIR]
#   mini_slurm.sh fail   [DIR] NODE  (net only) the node is cut off, everything on it dies, and Slurm is told
#   mini_slurm.sh run    [DIR] -- CMD...   start, run CMD with SLURM_CONF set, stop; exit code of CMD
#   after start:  source DIR/env.sh  (sets SLURM_CONF; clients need nothing else)
#
# Knobs (environment):
#   MINI_SLURM_NODES=2       number of fake nodes, called n1..nN
#   MINI_SLURM_CPUS=4        CPUs each node claims (need not exist: config_overrides)
#   MINI_SLURM_MEM_MB=       memory each node claims (default: real memory)
#   MINI_SLURM_GPUS=0        fake GPUs per node (gres/gpu backed by links to /dev/null; sets CUDA_VISIBLE_DEVICES)
#   MINI_SLURM_ISOLATE=auto  how node names are made to resolve inside jobs:
#        net   like ns, plus a network namespace per node on a private bridge: n1 is 10.x.y.1, n2 is 10.x.y.2,
#              so that "localhost" in a job really is the node only (root + CAP_NET_ADMIN; no outside network)
#        ns    each slurmd in its own UTS + mount namespace: `hostname` is the node name and a private
#              /etc/hosts maps every node name to 127.0.0.1 (CAP_SYS_ADMIN or user namespaces; touches nothing outside)
#        hosts append one marked line to /etc/hosts, removed by stop (needs a writable /etc/hosts)
#        none  leave it; jobs must not resolve node names
#        auto  ns if it works, else hosts if writable, else none
#   MINI_SLURM_PORT=         first of N+1 consecutive TCP ports (default: a free range is picked)
#   MINI_SLURM_EXTRA=        text appended to slurm.conf
set -u -o pipefail
PATH=$PATH:/usr/sbin:/sbin
die() { echo "mini-slurm: $*" >&2; exit 1; }
say() { echo "mini-slurm: $*" >&2; }

VERB=${1:-}; [ $# -gt 0 ] && shift
DIR=${MINI_SLURM_DIR:-/tmp/mini-slurm}
case ${1:-} in ''|--) ;; *) DIR=$1; shift ;; esac
[ "${1:-}" = -- ] && shift
case $DIR in /*) ;; *) DIR=$PWD/$DIR ;; esac

NODES=${MINI_SLURM_NODES:-2}
CPUS=${MINI_SLURM_CPUS:-4}
MEM=${MINI_SLURM_MEM_MB:-$(awk '/MemTotal/{print int($2/1024)-64}' /proc/meminfo)}
GPUS=${MINI_SLURM_GPUS:-0}
ISOLATE=${MINI_SLURM_ISOLATE:-auto}
HOST=$(hostname -s 2>/dev/null || hostname)
MARK="# mini-slurm:$DIR"

install_pkgs() {
    [ "$(id -u)" = 0 ] || die "install needs root"
    # --no-install-recommends matters: with recommends apt pulls ~45 packages instead of 8.
    # Where nothing forbids it the postinsts would try to start system daemons; they are not needed.
    local p=/usr/sbin/policy-rc.d made=
    [ -e $p ] || { printf '#!/bin/sh\nexit 101\n' >$p; chmod 755 $p; made=1; }
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
        slurmctld slurmd slurm-client munge util-linux iproute2
    local rc=$?
    [ -n "$made" ] && rm -f $p
    return $rc
}

alive() { # PIDFILE COMM -> is that pid ours and running
    local p; p=$(cat "$1" 2>/dev/null) || return 1
    [ -n "$p" ] && [ "$(cat /proc/"$p"/comm 2>/dev/null)" = "$2" ]
}

end_pids() { # PIDFILE:COMM...   TERM all, wait up to 5 s, KILL what is left
    local x i left
    for x in "$@"; do alive "${x%:*}" "${x#*:}" && kill -TERM "$(cat "${x%:*}")" 2>/dev/null; done
    for i in $(seq 50); do
        left=
        for x in "$@"; do alive "${x%:*}" "${x#*:}" && left="$left $x"; done
        [ -n "$left" ] || break
        sleep 0.1
    done
    for x in $left; do kill -KILL "$(cat "${x%:*}")" 2>/dev/null; done
    for x in "$@"; do rm -f "${x%:*}"; done
}

port_free() { ! (exec 3<>/dev/tcp/127.0.0.1/"$1") 2>/dev/null; }

pick_ports() {
    [ -n "${MINI_SLURM_PORT:-}" ] && { echo "$MINI_SLURM_PORT"; return; }
    local try base i ok
    for try in $(seq 50); do
        base=$((16000 + (RANDOM % 800) * 16)); ok=1        # below ip_local_port_range (32768..)
        for i in $(seq 0 "$NODES"); do port_free $((base+i)) || { ok=; break; }; done
        [ -n "$ok" ] && { echo $base; return; }
    done
    die "no free port range"
}

spawn() { # PIDFILE LOG CMD...   background, own session, stdin closed; CMD must exec in place
    local pf=$1 log=$2; shift 2
    setsid "$@" </dev/null >>"$log" 2>&1 &
    echo $! >"$pf"
}

# net mode: bridge ms<K> 10.213.<K>.254, nodes 10.213.<K>.<i>; every other mode: all on the loopback
addr() { [ "$mode" = net ] && echo "10.213.$K.$1" || echo 127.0.0.1; }
net_up() {
    local i
    ip link add "ms$K" type bridge && ip addr add "$(addr 254)/24" dev "ms$K" && ip link set "ms$K" up || return 1
    for i in $(seq "$NODES"); do
        ip netns add "ms$K-n$i" && ip link add "ms$K-$i" type veth peer name eth0 netns "ms$K-n$i" &&
        ip link set "ms$K-$i" master "ms$K" up && ip -n "ms$K-n$i" link set lo up &&
        ip -n "ms$K-n$i" addr add "$(addr "$i")/24" dev eth0 && ip -n "ms$K-n$i" link set eth0 up || return 1
    done
}
net_down() {
    local k i
    k=$(cat "$DIR/run/net" 2>/dev/null) && [ -n "$k" ] || return 0
    for i in $(ip netns list | sed -n "s/^\(ms$k-n[0-9]*\).*/\1/p"); do ip netns del "$i"; done
    ip link del "ms$k" 2>/dev/null; rm -f "$DIR/run/net"
}

write_conf() {
    local base=$1 i
    cat >"$DIR/etc/slurm.conf" <<CONF
ClusterName=mini
SlurmctldHost=$HOST($(addr 254))
SlurmctldPort=$base
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
CredType=cred/munge
# cred_expire: a requeued job waits this long (+1 s) before it may start again; the default is 120 s
AuthInfo=socket=$DIR/run/munge.sock,cred_expire=${MINI_SLURM_CRED_EXPIRE:-5}
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool/%n
SlurmctldPidFile=$DIR/run/slurmctld.native.pid
SlurmdPidFile=$DIR/run/slurmd.%n.native.pid
SlurmctldLogFile=$DIR/log/slurmctld.log
SlurmdLogFile=$DIR/log/slurmd.%n.log
SlurmctldDebug=${MINI_SLURM_DEBUG:-info}
SlurmdDebug=${MINI_SLURM_DEBUG:-info}
MailProg=/bin/true
# no cgroup, no affinity, no MPI plugin, no accounting daemon
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$DIR/log/jobcomp.txt
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
# nodes may claim more CPUs/memory than the machine has
SlurmdParameters=config_overrides
PropagateResourceLimits=NONE
ReturnToService=2
JobRequeue=1
KillWait=5
MinJobAge=3600
MessageTimeout=30
SlurmctldTimeout=30
SlurmdTimeout=300
TCPTimeout=5
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0,bf_interval=2
CONF
    [ "$GPUS" -gt 0 ] && {
        echo "GresTypes=gpu" >>"$DIR/etc/slurm.conf"
        mkdir -p "$DIR/dev"
        for i in $(seq 0 $((GPUS-1))); do ln -sfn /dev/null "$DIR/dev/fakegpu$i"; done  # must be a device
        : >"$DIR/etc/gres.conf"
        for i in $(seq "$NODES"); do
            echo "NodeName=n$i Name=gpu Count=$GPUS File=$DIR/dev/fakegpu[0-$((GPUS-1))]" >>"$DIR/etc/gres.conf"
        done
    }
    for i in $(seq "$NODES"); do
        echo "NodeName=n$i NodeHostname=$HOST NodeAddr=$(addr "$i") Port=$((base+i)) CPUs=$CPUS RealMemory=$MEM$(
            [ "$GPUS" -gt 0 ] && echo " Gres=gpu:$GPUS") State=UNKNOWN" >>"$DIR/etc/slurm.conf"
    done
    cat >>"$DIR/etc/slurm.conf" <<CONF
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=10 State=UP
${MINI_SLURM_EXTRA:-}
CONF
    { cat /etc/hosts; for i in $(seq "$NODES"); do echo "$(addr "$i") n$i $MARK"; done; } >"$DIR/etc/hosts"
    # Slurm >= 24.05 knows "disabled" (older releases reject it, and 22.05 needs no cgroup.conf at all)
    rm -f "$DIR/etc/cgroup.conf"
    i=$(slurmd -V | sed 's/[^0-9]*\([0-9]*\)\.\([0-9]*\).*/\1\2/')
    [ "$i" -ge 2405 ] && echo "CgroupPlugin=disabled" >"$DIR/etc/cgroup.conf"
    chmod 644 "$DIR/etc/"*.conf "$DIR/etc/hosts"
}

# runs inside the new namespaces: hostname, private /etc/hosts, then becomes slurmd (same pid)
NS_PREP='hostname "$1" && mount --bind "$2" /etc/hosts'

start() {
    local b i t0 base mode K us in_net
    for b in munged slurmctld slurmd sbatch scontrol; do
        command -v $b >/dev/null || die "$b not found; run: $0 install"
    done
    [ ${#DIR} -le 60 ] || die "DIR too long (unix sockets are limited to 108 chars): $DIR"
    [ -f "$DIR/etc/slurm.conf" ] && alive "$DIR/run/slurmctld.pid" slurmctld && die "already running in $DIR"
    umask 022
    mkdir -p "$DIR"/{etc,run,log,state,spool,tmp} || die "cannot make $DIR"
    chmod 755 "$DIR" "$DIR"/{etc,run,log,state,spool}
    rm -rf "${DIR:?}"/state/* "${DIR:?}"/spool/* "${DIR:?}"/run/* "${DIR:?}"/log/*
    base=$(pick_ports) || exit 1
    us=(unshare --uts --mount --propagation slave)
    [ "$(id -u)" = 0 ] || us=(unshare --user --map-current-user --keep-caps --uts --mount --propagation slave)
    mode=$ISOLATE
    if [ "$mode" = auto ]; then
        echo "127.0.0.1 localhost n1" >"$DIR/tmp/hosts"
        if "${us[@]}" sh -c "$NS_PREP" sh n1 "$DIR/tmp/hosts" 2>/dev/null; then mode=ns
        elif [ -w /etc/hosts ]; then mode=hosts
        else mode=none; say "node names will not resolve inside jobs"; fi
    fi
    if [ "$mode" = net ]; then
        K=$((base / 16 % 250)); while ip link show "ms$K" >/dev/null 2>&1; do K=$(((K+1) % 250)); done
        echo "$K" >"$DIR/run/net"; net_up || { net_down; die "cannot make the network namespaces"; }
    fi
    echo "$mode" >"$DIR/run/isolate"
    write_conf "$base"
    if [ "$mode" = hosts ]; then grep -qF "$MARK" /etc/hosts || grep -F "$MARK" "$DIR/etc/hosts" >>/etc/hosts; fi
    [ -s "$DIR/etc/munge.key" ] || (umask 077; head -c 1024 /dev/urandom >"$DIR/etc/munge.key")
    chmod 600 "$DIR/etc/munge.key"

    # munged runs as the calling user: it authenticates clients by SO_PEERCRED and needs no privilege
    spawn "$DIR/run/munged.pid" "$DIR/log/munged.out" munged -F --force --socket="$DIR/run/munge.sock" \
        --key-file="$DIR/etc/munge.key" --pid-file="$DIR/run/munged.native.pid" \
        --seed-file="$DIR/run/munged.seed" --num-threads=10
    for i in $(seq 100); do [ -S "$DIR/run/munge.sock" ] && break; sleep 0.05; done
    [ -S "$DIR/run/munge.sock" ] || { cat "$DIR/log/munged.out"; die "munged did not start"; }

    export SLURM_CONF=$DIR/etc/slurm.conf
    # a job step must not inherit the surroundings of whoever started the cluster
    unset $(env | sed -n 's/^\(\(SLURM\|SBATCH\|SRUN\|SALLOC\)_[A-Z0-9_]*\)=.*/\1/p' | grep -vx SLURM_CONF) 2>/dev/null
    spawn "$DIR/run/slurmctld.pid" "$DIR/log/slurmctld.out" slurmctld -D -c
    for i in $(seq "$NODES"); do
        if [ "$mode" = ns ] || [ "$mode" = net ]; then
            in_net=(); [ "$mode" = net ] && in_net=(nsenter "--net=/run/netns/ms$K-n$i")
            spawn "$DIR/run/slurmd.n$i.pid" "$DIR/log/slurmd.n$i.out" "${in_net[@]}" "${us[@]}" \
                sh -c "$NS_PREP"' && exec slurmd -D -N "$1"' sh "n$i" "$DIR/etc/hosts"
        else
            spawn "$DIR/run/slurmd.n$i.pid" "$DIR/log/slurmd.n$i.out" slurmd -D -N "n$i"
        fi
    done
    printf 'export SLURM_CONF=%q\n' "$SLURM_CONF" >"$DIR/env.sh"

    t0=$SECONDS
    while :; do
        [ "$(sinfo -h -N -t idle -o %N 2>/dev/null | sort -u | wc -l)" -ge "$NODES" ] && break
        if [ $((SECONDS-t0)) -ge "${MINI_SLURM_WAIT:-60}" ] || ! kill -0 "$(cat "$DIR/run/slurmctld.pid")" 2>/dev/null; then
            tail -n 20 "$DIR"/log/*.out >&2; sinfo -N -l >&2
            stop; die "nodes not idle after $((SECONDS-t0)) s"
        fi
        sleep 0.1
    done
    say "up: $NODES nodes, isolation=$mode, ports $base-$((base+NODES)), slurm $(slurmd -V | awk '{print $2}'); source $DIR/env.sh"
}

# pids of this cluster's job processes and step daemons, wherever they were re-parented to: they carry
# our SLURM_CONF and a SLURM_JOB_ID (or are slurmstepd). proctrack/linuxproc loses daemonized tasks; this does not.
our_procs() {
    local e p
    for e in $(grep -lzxF "SLURM_CONF=$DIR/etc/slurm.conf" /proc/[0-9]*/environ 2>/dev/null); do
        p=${e#/proc/}; p=${p%/environ}
        case " $KEEP " in *" $p "*) continue ;; esac
        if [ "$(cat /proc/$p/comm 2>/dev/null)" = slurmstepd ] || grep -qz '^SLURM_JOB_ID=' "$e" 2>/dev/null; then echo "$p"; fi
    done
}

stop() {
    local i f p ds= KEEP=
    export SLURM_CONF=$DIR/etc/slurm.conf
    p=$$; while [ "${p:-0}" -gt 1 ]; do KEEP="$KEEP $p"; p=$(awk '{print $4}' "/proc/$p/stat" 2>/dev/null); done  # not ourselves
    if alive "$DIR/run/slurmctld.pid" slurmctld; then
        p=$(squeue -h -o %A 2>/dev/null | sort -u)
        [ -n "$p" ] && scancel $p 2>/dev/null
        for i in $(seq 40); do [ -z "$(squeue -h 2>/dev/null)" ] && break; sleep 0.2; done
    fi
    for i in $(seq 10); do
        p=$(our_procs); [ -n "$p" ] || break
        kill -KILL $p 2>/dev/null; sleep 0.2
    done
    for f in "$DIR"/run/slurmd.n*.pid; do
        case $f in *native.pid|*'*'*) ;; *) ds="$ds $f:slurmd" ;; esac
    done
    end_pids $ds "$DIR/run/slurmctld.pid:slurmctld"
    end_pids "$DIR/run/munged.pid:munged"
    if [ "$(cat "$DIR/run/isolate" 2>/dev/null)" = hosts ] && grep -qF "$MARK" /etc/hosts; then
        grep -vF "$MARK" /etc/hosts >"$DIR/tmp/hosts" && cat "$DIR/tmp/hosts" >/etc/hosts  # not sed -i: bind mount in Docker
    fi
    net_down
    rm -f "$DIR/env.sh"
}

# Nobody hears of the end of the node's processes: its cable is cut first.
fail() {
    local k p
    k=$(cat "$DIR/run/net" 2>/dev/null) && [ -n "$k" ] || die "fail needs MINI_SLURM_ISOLATE=net"
    ip link set "ms$k-${1#n}" down || die "no node $1"
    p=$(ip netns pids "ms$k-$1"); [ -z "$p" ] || kill -KILL $p
    SLURM_CONF=$DIR/etc/slurm.conf scontrol update NodeName="$1" State=DOWN Reason=failed
}

case $VERB in
    install) install_pkgs ;;
    start) start ;;
    stop) stop ;;
    fail) fail "$@" ;;
    status) SLURM_CONF=$DIR/etc/slurm.conf sinfo -N -l; SLURM_CONF=$DIR/etc/slurm.conf squeue ;;
    run) [ $# -gt 0 ] || die "run needs: -- CMD"
         start; trap 'stop; exit 130' INT TERM
         SLURM_CONF=$DIR/etc/slurm.conf "$@"; rc=$?; stop; exit $rc ;;
    *) sed -n '2,27s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
