"""A job in the background of this machine."""
