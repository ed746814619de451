#!/usr/bin/env bash
#SBATCH --job-name=azero
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --no-kill
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
# One run on the nodes of a SLURM job; submitted again, or requeued, it goes on from its last checkpoint.
#
#     sbatch cluster/launch/slurm.sh journal run.dir=/shared/runs/journal rollout.actors=15
#
# The arguments are those of `azero train`. AZERO_VENV names the environment, the same path on every node. Five minutes
# before the time is up SLURM sends USR1: the run ends with a checkpoint and is queued again.
set -euo pipefail

if [ $# -eq 0 ]; then
    echo "usage: sbatch $0 CONFIG run.dir=DIR [KEY=VALUE ...]" >&2
    exit 2
fi
run_dir=
for argument in "$@"; do
    case "$argument" in run.dir=*) run_dir=${argument#run.dir=} ;; esac
done
if [ -z "$run_dir" ]; then
    echo "azero: give run.dir=DIR, a folder that all nodes share" >&2
    exit 2
fi
# shellcheck source=/dev/null
source "${AZERO_VENV:-.venv}/bin/activate"

port=${AZERO_RAY_PORT:-6379}
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}   # which srun does not take over from sbatch
token_file=$(mktemp "$HOME/.azero-ray-token.XXXXXX")   # a home folder that the nodes share, readable by its owner alone
# shellcheck disable=SC2317,SC2329  # a trap calls it
cleanup() {
    status=$?
    trap - EXIT TERM USR1
    rm -f "$token_file"
    jobs -p | xargs -r kill 2>/dev/null || true   # the nodes' Ray
    wait
    exit "$status"
}
trap cleanup EXIT
python -c 'import secrets; print(secrets.token_hex(32))' >"$token_file"
export RAY_AUTH_TOKEN_PATH=$token_file

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
address=$(srun --nodes=1 --ntasks=1 -w "$head" hostname -I | awk '{print $1}')

srun --nodes=1 --ntasks=1 -w "$head" \
    ray start --head --node-ip-address="$address" --port="$port" --dashboard-host=127.0.0.1 --block &
for ((i = 0; ; i++)); do
    if ray health-check --address "$address:$port" >/dev/null 2>&1; then break; fi
    if [ "$i" -eq 60 ]; then
        echo "azero: Ray's head on $head did not answer at $address:$port" >&2
        exit 1
    fi
    sleep 2
done
for node in "${nodes[@]:1}"; do
    srun --nodes=1 --ntasks=1 -w "$node" ray start --address="$address:$port" --block &
done

resume=()
if [ -e "$run_dir/config.yaml" ]; then resume=(--resume); fi
# Actors join as their nodes do, so the driver need not wait for the last of them.
RAY_ADDRESS="$address:$port" azero train "$@" "${resume[@]}" &
driver=$!
time_is_up=
trap 'time_is_up=yes; kill -TERM "$driver"' USR1
trap 'kill -TERM "$driver"' TERM
status=0
wait "$driver" || status=$?
while kill -0 "$driver" 2>/dev/null; do   # a wait ends with a signal too
    status=0
    wait "$driver" || status=$?
done
if [ "$status" -eq 130 ] && [ -n "$time_is_up" ]; then
    scontrol requeue "$SLURM_JOB_ID"   # stopped with a checkpoint: it goes on when it is this job's turn again
fi
exit "$status"
