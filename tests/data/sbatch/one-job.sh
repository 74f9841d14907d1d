#!/bin/bash

# Parameters
#SBATCH --cpus-per-task=1
#SBATCH --error=BATCH/jobs/%j_0_log.err
#SBATCH --exclude='node[3-4]'
#SBATCH --job-name=npasbench
#SBATCH --mem=8G
#SBATCH --nodes=1
#SBATCH --open-mode=append
#SBATCH --output=BATCH/jobs/%j_0_log.out
#SBATCH --requeue
#SBATCH --signal=USR2@30
#SBATCH --time=1
#SBATCH --wckey=me

# setup
export PYTHONPATH=BATCH/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output BATCH/jobs/%j_%t_log.out --error BATCH/jobs/%j_%t_log.err --cpus-per-task=1 PYTHON -u -m submitit.core._submit BATCH/jobs
