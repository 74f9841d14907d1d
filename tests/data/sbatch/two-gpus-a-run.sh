#!/bin/bash

# Parameters
#SBATCH --array=0-1%2
#SBATCH --cpus-per-task=4
#SBATCH --error=BATCH/jobs/%A_%a_0_log.err
#SBATCH --gpus-per-node=4
#SBATCH --job-name=npasbench
#SBATCH --mem=64G
#SBATCH --nodes=1
#SBATCH --open-mode=append
#SBATCH --output=BATCH/jobs/%A_%a_0_log.out
#SBATCH --requeue
#SBATCH --signal=USR2@60
#SBATCH --time=113

# setup
export PYTHONPATH=BATCH/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output BATCH/jobs/%A_%a_%t_log.out --error BATCH/jobs/%A_%a_%t_log.err --cpus-per-task=4 PYTHON -u -m submitit.core._submit BATCH/jobs
