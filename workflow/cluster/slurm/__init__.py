"""A job as a batch script, and Slurm's own commands."""
