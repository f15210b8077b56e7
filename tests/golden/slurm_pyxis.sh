#!/bin/bash
# Written by `python3 -m workflow submit slurm` for sbatch.
#SBATCH --job-name="explain: 100%"
#SBATCH --output="/shared/mount/models/.jobs/0216 explain/log"
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=a100:4
#SBATCH --cpus-per-task=32
#SBATCH --mem=488281M
#SBATCH --time=0-12:00:00
#SBATCH --dependency=afterok:17
#SBATCH --kill-on-invalid-dep=yes
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@90
#SBATCH --partition=gpu
#SBATCH --account=me
#SBATCH --exclusive
#SBATCH --comment="a \"b\""

# Slurm sends USR1 before the time limit, and at some sites before preemption. The run saves and
# exits when it sees the file `stop`. It ignores a file older than its start, so the file is touched
# until srun ends. Before the run starts there is nothing to save, and SIGTERM ends it.
stopping=
step=
stop() {
  stopping=yes
  echo "$(date '+%F %T') received USR1 from Slurm: saving, then requeueing the job"
  while [ -n "$step" ] && kill -0 "$step" 2>/dev/null; do
    if [ -e "$run/training_args.json" ]; then
      touch "$run/stop"
    else
      kill -TERM "$step"
    fi
    sleep 5
  done
}
trap stop USR1

cd '/home/u/my files' || exit 1
export WORKFLOW_MOUNT=/shared/mount
export HF_HUB_OFFLINE=1
export NCCL_DEBUG=INFO
export OMP_NUM_THREADS=8
module load cuda
ulimit -n 65536
set +eu # undo what setup may have set
cd '/home/u/my files' || exit 1
run='/shared/mount/models/0216 explain'
folder='/shared/mount/models/.jobs/0216 explain'
restarts=${SLURM_RESTART_COUNT:-0}
# One task of an array may have the number of the whole array.
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}

# Requeue the job if Slurm reports it as running: a cancelled job must stay cancelled.
requeue() {
  if [ "$restarts" -ge 3 ]; then
    echo "not requeued: reached the limit of 3 restarts (--max_restarts)" >&2
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

if [ "$restarts" -gt 3 ]; then # Slurm's own requeues after node failures count too
  echo "not restarted: reached the limit of 3 restarts (--max_restarts)" >&2
  exit 1
fi
touch "$folder/started"
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# Its NodeAddr, where Slurm itself reaches it: the name may be Slurm's alone.
address=$(scontrol --oneliner show node "$first" | sed -n 's/.* NodeAddr=\([^ ]*\).*/\1/p')
address=${address:-$first}
ulimit -S -l hard # InfiniBand needs locked memory; srun passes the limit on
port=$((15000 + SLURM_JOB_ID % 15000))
srun --kill-on-bad-exit=1 --cpu-bind=none --export=ALL \
  --container-image='nvcr.io#x/y:1' \
  --container-mounts='/home/u/workflow:/home/u/workflow,/shared/mount:/shared/mount,/home/u/my files:/home/u/my files,/data/big:/data/big,/a b:/c' \
  --container-workdir='/home/u/my files' \
  python3 /home/u/workflow/workflow/cluster/slurm/node.py "$address" "$port" \
  --nnodes=2 --nproc-per-node=4 \
  --rdzv-id="$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}" \
  --shutdown-timeout=90 \
  /home/u/workflow/seq2seq.py --model_init_name flan-t5-xxl --data_name 'it'"'"'s mine' &
step=$!
[ -z "$stopping" ] || stop
wait "$step"
while kill -0 "$step" 2>/dev/null; do # a signal ended wait, not srun
  wait "$step"
done
wait "$step"
status=$?

# torchrun hides the exit status of the processes: read the state from the run's folder.
state=
if [ "$run/status.json" -nt "$folder/started" ]; then
  state=$(sed -n 's/^ *"state": *"\([a-z]*\)".*/\1/p' "$run/status.json" | head -n 1)
  if grep -q '^ *"error": "interrupted"' "$run/status.json"; then
    state=interrupted # while loading the model
  fi
fi
case $state in
  done) exit 0 ;;
  failed) exit $((status > 0 ? status : 1)) ;;
  saved) [ "$status" -eq 0 ] || stopping=yes ;; # by SIGTERM, after which torchrun fails
esac
if [ -n "$stopping" ]; then
  requeue
elif [ "$status" -ne 0 ] &&
  scontrol --oneliner show job "$job" | grep -q ' PreemptTime=[0-9]'; then
  requeue # preempted before the run started
fi
if [ "$state" = saved ]; then
  exit 75 # stopped, not done: dependent jobs must not start
fi
exit "$status"
