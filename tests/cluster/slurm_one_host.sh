#!/bin/bash
# A real Slurm on one machine, as root and without systemd: two "nodes", n1 and n2, which are two slurmd on two ports.
# usage: slurm_one_host.sh install | start FOLDER | stop FOLDER      (between them: export SLURM_CONF=FOLDER/slurm.conf)
set -euo pipefail

install() {
    command -v slurmctld && command -v slurmd && command -v munged && return
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq slurm-wlm munge
}

write_conf() {
    local host port
    host=$(hostname -s)
    port=$((20000 + RANDOM % 10000))
    mkdir -p "$1/state" "$1/spool"
    # Jobs of the partition `urgent` pre-empt those of `main`.
    cat > "$1/slurm.conf" <<CONF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$1/munge.socket
CredType=cred/munge
StateSaveLocation=$1/state
SlurmdSpoolDir=$1/spool/%n
SlurmctldPidFile=$1/slurmctld.pid
SlurmdPidFile=$1/slurmd-%n.pid
SlurmctldLogFile=$1/slurmctld.log
SlurmdLogFile=$1/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=60
MinJobAge=3600
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 1)) CPUs=2 State=UNKNOWN
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 2)) CPUs=2 State=UNKNOWN
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=120
PartitionName=urgent Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier=2 PreemptMode=OFF
CONF
}

start() {
    write_conf "$1"
    (umask 077; head -c 1024 /dev/urandom > "$1/munge.key")  # a munged of our own, beside one that the machine may have
    munged --force --key-file="$1/munge.key" --socket="$1/munge.socket" --seed-file="$1/munged.seed" \
        --pid-file="$1/munged.pid" --log-file="$1/munged.log"
    export SLURM_CONF=$1/slurm.conf
    slurmctld
    slurmd -N n1
    slurmd -N n2
    for _ in $(seq 300); do
        [ "$(sinfo --noheader --Node --partition=main --format=%T 2>/dev/null | grep -c idle)" = 2 ] && return
        sleep 0.2
    done
    echo "its two nodes are not idle after a minute" >&2
    return 1
}

stop() {
    local name file
    export SLURM_CONF=$1/slurm.conf
    scancel --user=root --signal=KILL --full || true
    for name in slurmd-n1 slurmd-n2 slurmctld munged; do
        file=$1/$name.pid
        [ -f "$file" ] || continue
        kill "$(cat "$file")" || true
        for _ in $(seq 100); do
            [ -f "$file" ] || break  # each removes it when it ends
            sleep 0.1
        done
    done
}

"$@"
