#!/bin/bash
# Run a command on Slurm; it is requeued and resumes automatically after a preemption or at the time limit:
#   sbatch --gpus-per-node=8 --ntasks-per-node=8 configs/slurm/job.sh fit --config configs/segmentation/unet.yaml \
#       --config configs/trainer/slurm.yaml
# One task per GPU. Several nodes: --nodes=4. Processors and hours: --cpus-per-task=8 --time=1-00:00:00.
# The signal comes three minutes before the end. If a step and a validation take longer: --signal=SIGUSR1@600.
# It runs the `darkroom` on the PATH of the shell that calls sbatch.
#SBATCH --job-name=darkroom
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=SIGUSR1@180

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK  # srun does not inherit it from sbatch
export MASTER_ADDR=${MASTER_ADDR:-$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)}

# After one task has ended, with or without an error, the others must end within five minutes.
srun --wait=300 darkroom "$@" --trainer.devices="$SLURM_NTASKS_PER_NODE" --trainer.num_nodes="$SLURM_NNODES"
