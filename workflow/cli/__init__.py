"""The commands: from argv to a job or a subcommand, and exit statuses. May import every room."""
