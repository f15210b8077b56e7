"""Jobs in this machine's background."""
