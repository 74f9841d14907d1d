"""Task cards and suites: TOML files, nothing else."""
