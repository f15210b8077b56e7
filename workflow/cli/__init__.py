"""The command lines and their exit statuses. May import every room."""
