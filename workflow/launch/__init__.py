"""How a job becomes several processes: launched here (`local`), or by someone else (`join`)."""
