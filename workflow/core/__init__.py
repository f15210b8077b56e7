"""Errors, files, logging and tables for all rooms. Imports no other room, and not torch."""
