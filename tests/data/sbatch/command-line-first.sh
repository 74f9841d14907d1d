#!/bin/bash

# Parameters
#SBATCH --account=vision
#SBATCH --array=0-2%2
#SBATCH --constraint='a100|h100'
#SBATCH --cpus-per-task=8
#SBATCH --error=BATCH/jobs/%A_%a_0_log.err
#SBATCH --exclusive
#SBATCH --gpus-per-node=2
#SBATCH --job-name=npasbench
#SBATCH --mail-type=FAIL
#SBATCH --mem=32G
#SBATCH --nice=5
#SBATCH --nodes=1
#SBATCH --open-mode=append
#SBATCH --output=BATCH/jobs/%A_%a_0_log.out
#SBATCH --partition=small
#SBATCH --qos=long
#SBATCH --requeue
#SBATCH --signal=USR2@60
#SBATCH --time=90

# setup
module load cuda/12.4 || exit
source ~/env.sh || exit
export PYTHONPATH=BATCH/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output BATCH/jobs/%A_%a_%t_log.out --error BATCH/jobs/%A_%a_%t_log.err --cpus-per-task=8 PYTHON -u -m submitit.core._submit BATCH/jobs
