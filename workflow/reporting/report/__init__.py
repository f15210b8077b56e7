"""Pages to look at: a run's report, and runs compared."""
