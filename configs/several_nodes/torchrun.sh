#!/usr/bin/env bash
# One training over several machines, started on each of them by torchrun. What follows are the options of `musictrain fit`.
#
#   MASTER_ADDR=10.0.0.1 NODES=2 NODE_RANK=0 PROCESSES=2 bash torchrun.sh --config chorales-transformer     # on the first machine
#   MASTER_ADDR=10.0.0.1 NODES=2 NODE_RANK=1 PROCESSES=2 bash torchrun.sh --config chorales-transformer     # on the second
#
# The same line started again goes on from the last good version. README.md, beside this file, says the rest.
set -euo pipefail

: "${MASTER_ADDR:?the address of the first machine, as the others reach it}"
: "${NODES:=2}"            # machines; 1:2 is "at least one, at most two": the run goes on with those that are left (needs RESTARTS)
: "${NODE_RANK:=0}"        # 0 on the first machine, where the others find each other
: "${PROCESSES:=1}"        # on this machine: one for each GPU, or one for some cores
: "${MASTER_PORT:=29500}"  # on the first machine, open to the others
: "${RESTARTS:=0}"         # how often processes are started again when one of them has ended
: "${RUN_ID:=musictrain}"  # the same on all machines, another for every run that the first machine serves at the same time
: "${PYTHON:=python}"

own_address() { # by which the first machine reaches this one; NODE_ADDR if that is guessed wrongly
  if [[ "$NODE_RANK" == 0 ]]; then echo "$MASTER_ADDR"; else hostname -I | cut -d " " -f 1; fi
}

if [[ -z "${OMP_NUM_THREADS:-}" ]]; then
  # torchrun would give every process one thread, or, where there is one process, all threads to each.
  cores=$(nproc)
  export OMP_NUM_THREADS=$((cores > PROCESSES ? cores / PROCESSES : 1))
fi
# Without it, torch 2.13 cannot start gloo's processes again.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1

options=(--nnodes "$NODES" --nproc_per_node "$PROCESSES" --max_restarts "$RESTARTS" --rdzv_id "$RUN_ID")
if [[ "$RESTARTS" == 0 ]]; then
  # The plain way: when a machine is lost, torchrun ends on all of them.
  options+=(--node_rank "$NODE_RANK" --master_addr "$MASTER_ADDR" --master_port "$MASTER_PORT")
else
  # Machines find each other again. (A machine that is cut off ends its training, but its torchrun looks for the first one without end.)
  options+=(--rdzv_backend c10d --rdzv_endpoint "$MASTER_ADDR:$MASTER_PORT" --local_addr "${NODE_ADDR:-$(own_address)}")
  options+=(--rdzv_conf "is_host=$([[ "$NODE_RANK" == 0 ]] && echo true || echo false)")
fi

exec "$PYTHON" -m torch.distributed.run "${options[@]}" -m musictrain fit --ckpt_path auto "$@"
