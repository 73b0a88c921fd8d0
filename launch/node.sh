#!/usr/bin/env bash
# One machine of a run on several: the same command on each of NODES machines, NODE_RANK counting them from 0.
#   NODES=2 NODE_RANK=0 MASTER_ADDR=first-host GPUS=8 launch/node.sh experiment=kadid10k
# MASTER_ADDR is the machine with NODE_RANK=0, as the others reach it, and MASTER_PORT a free port there (29500). GPUS is
# the number on each machine (all of this one's), LAUNCHER the file of launch/accelerate (zero3), PYTHON the interpreter
# that vqr1 is installed in. Machines wait TIMEOUT seconds for each other (1800); then each names those that are missing.
set -euo pipefail
usage='usage: NODES=2 NODE_RANK=0 MASTER_ADDR=first-host GPUS=8 launch/node.sh experiment=kadid10k ...'
: "${NODES:?$usage}" "${NODE_RANK:?$usage}" "${MASTER_ADDR:?$usage}"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
MASTER_PORT=${MASTER_PORT:-29500}
LAUNCHER=${LAUNCHER:-zero3}
refuse() { echo "launch/node.sh: $*" >&2; exit 2; }

GPUS=${GPUS-$( (nvidia-smi --list-gpus 2>/dev/null || true) | wc -l)}
[[ $GPUS =~ ^[1-9][0-9]*$ ]] || refuse "GPUS=$GPUS: give the number of GPUs of this machine, 1 or more (nvidia-smi -L)"
[[ $NODES =~ ^[1-9][0-9]*$ && $NODE_RANK =~ ^[0-9]+$ ]] && ((NODE_RANK < NODES)) ||
  refuse "NODES=$NODES NODE_RANK=$NODE_RANK: machines are counted from 0 to NODES - 1"
[[ $LAUNCHER =~ ^(ddp|zero2|zero3|fsdp2)$ ]] || refuse "LAUNCHER=$LAUNCHER: choose ddp, zero2, zero3 or fsdp2"
if [[ -z ${PYTHON:-} ]]; then
  PYTHON=$here/../.venv/bin/python
  [[ -x $PYTHON ]] || PYTHON=python3
fi

# What a pod or another launcher says of this process's place.
unset RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE
"$PYTHON" -m vqr1.meeting "$NODE_RANK" "$NODES" "$MASTER_ADDR" "$MASTER_PORT" "${TIMEOUT:-1800}"
exec "$PYTHON" -m accelerate.commands.launch --config_file "$here/accelerate/$LAUNCHER.yaml" \
  --num_machines "$NODES" --machine_rank "$NODE_RANK" --num_processes $((NODES * GPUS)) --same_network \
  --main_process_ip "$MASTER_ADDR" --main_process_port "$MASTER_PORT" \
  -m vqr1 train ${TIMEOUT:+trainer.ddp_timeout="$TIMEOUT"} "$@"
