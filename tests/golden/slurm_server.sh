#!/bin/bash
# Written by `python3 -m workflow submit slurm` for sbatch.
#SBATCH --job-name=serve-a-run-checkpoint-7
#SBATCH --output=/shared/mount/models/.jobs/serve-a-run-checkpoint-7/log
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=0-12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@75
#SBATCH --partition=gpu

# Slurm sends USR1 before the time limit, and at some sites before preemption: the server ends with
# its requests, and its job is requeued.
stopping=
step=
stop() {
  stopping=yes
  echo "$(date '+%F %T') received USR1 from Slurm: ending the server, then requeueing the job"
  [ -z "$step" ] || kill -TERM "$step"
}
trap stop USR1

cd /home/u/workflow || exit 1
export WORKFLOW_MOUNT=/shared/mount
export HF_HUB_OFFLINE=1
export OMP_NUM_THREADS=8
module load cuda
set +eu # undo what setup may have set
cd /home/u/workflow || exit 1
restarts=${SLURM_RESTART_COUNT:-0}
# One task of an array may have the number of the whole array.
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}

# Requeue the job if Slurm reports it as running: a cancelled job must stay cancelled.
requeue() {
  if [ "$restarts" -ge 20 ]; then
    echo "not requeued: reached the limit of 20 restarts (--max_restarts)" >&2
    return
  fi
  for _ in 1 2 3; do
    case $(squeue --noheader --jobs="$job" --format=%T) in
      RUNNING | SIGNALING | PREEMPTED) scontrol requeue "$job" && exit 0 ;;
      ?*) return ;;
    esac
    sleep 5
  done
}

if [ "$restarts" -gt 20 ]; then # Slurm's own requeues after node failures count too
  echo "not restarted: reached the limit of 20 restarts (--max_restarts)" >&2
  exit 1
fi
# Docker's daemon is outside of the step, and has the GPUs of all jobs.
run_docker() {
  local devices=$CUDA_VISIBLE_DEVICES
  case $devices in
    [0-9]*) # as nvidia-smi counts them inside the step; docker counts all GPUs of the node
      devices=$(nvidia-smi --id="$devices" --query-gpu=uuid --format=csv,noheader | paste -sd ,) ;;
  esac
  case $devices in
    GPU-* | MIG-*) ;;
    *)
      echo "$SLURMD_NODENAME: docker cannot be limited to the job's GPUs:" \
        "CUDA_VISIBLE_DEVICES is '$CUDA_VISIBLE_DEVICES' (expected GPUs that nvidia-smi finds)." \
        "Hint: the node's gres.conf needs File= or AutoDetect=nvml." >&2
      exit 2
      ;;
  esac
  set -- --gpus="\"device=$devices\"" "$@"
  [ ! -e /dev/infiniband ] || set -- --device=/dev/infiniband "$@"
  exec docker run --ulimit memlock=-1 "$@"
}
export -f run_docker
srun --kill-on-bad-exit=1 --cpu-bind=none --export=ALL \
  bash -c 'run_docker "$@"' docker --rm --init --network=host --ipc=host \
  --user="$(id -u):$(id -g)" --env=HOME=/tmp \
  --env=WORKFLOW_MOUNT \
  --env=HF_HUB_OFFLINE \
  --env=OMP_NUM_THREADS \
  --env=SLURM_JOB_ID \
  --env=SLURM_NODEID \
  --env=SLURM_RESTART_COUNT \
  --env=SERVED_KEY \
  --volume=/home/u/workflow:/home/u/workflow \
  --volume=/shared/mount:/shared/mount \
  --workdir=/home/u/workflow --stop-timeout=75 \
  x/y:1 \
  python3 -m workflow serve \
  'a run/checkpoint-7' --host=0.0.0.0 --api_key_env=SERVED_KEY --grace=60 &
step=$!
[ -z "$stopping" ] || stop
wait "$step"
while kill -0 "$step" 2>/dev/null; do # a signal ended wait, not srun
  wait "$step"
done
wait "$step"
status=$?

# Preempted, the server ended with status 0, and Slurm would take its job as done.
if [ -n "$stopping" ] || scontrol --oneliner show job "$job" | grep -q ' PreemptTime=[0-9]'; then
  requeue
fi
exit "$status"
