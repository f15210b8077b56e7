"""Jobs on Kubernetes: the manifest and kubectl."""
