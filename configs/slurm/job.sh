#!/bin/bash
# A command on Slurm, requeued when it is pre-empted or its time is up, and continued by itself:
#   sbatch --gpus-per-node=8 --ntasks-per-node=8 configs/slurm/job.sh fit --config configs/segmentation/unet.yaml \
#       --config configs/trainer/slurm.yaml
# One task per GPU. Several nodes: --nodes=4. Processors and hours: --cpus-per-task=8 --time=1-00:00:00.
# The warning comes two minutes before the end; a step and a validation have to fit in: --signal=SIGUSR1@600.
# What runs is the `darkroom` on the PATH where sbatch is called.
#SBATCH --job-name=darkroom
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=SIGUSR1@180

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK  # which srun does not take from sbatch
export MASTER_ADDR=${MASTER_ADDR:-$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)}

# When one task has ended, however it did, the others have five minutes to.
srun --wait=300 darkroom "$@" --trainer.devices="$SLURM_NTASKS_PER_NODE" --trainer.num_nodes="$SLURM_NNODES"
