"""A job as a manifest, and kubectl."""
