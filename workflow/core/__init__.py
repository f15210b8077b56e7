"""What every room needs: errors, files, logging, tables. Imports no other room, and no torch."""
