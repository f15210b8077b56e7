"""A server as a Deployment of one pod, which is restarted whenever it ends, and a Service."""

from typing import Any

from workflow.cluster.kubernetes.manifest import (
    as_yaml,
    given,
    job_name,
    metadata_of,
    pod_of,
    queued,
)
from workflow.cluster.kubernetes.pod_script import SERVER_LABEL, server_script
from workflow.cluster.kubernetes.settings import read_settings
from workflow.cluster.served import Server

PORT = "http"


def deployment(server: Server) -> str:
    """Return a Deployment and its Service as YAML; requires no `problems`."""
    settings, _ = read_settings(server.cluster.kubernetes or {})
    name = job_name(server)
    metadata, marks = metadata_of(server, settings, **{SERVER_LABEL: name})
    pod = pod_of(server, settings, server_script(server, settings.project))
    pod["containers"][0] |= {"ports": [{"name": PORT, "containerPort": server.port}], **_probes()}
    # a second pod would wait for the GPU of the first
    strategy = {"type": "Recreate"} if server.cluster.gpus_per_node else None
    of_pods = {
        "replicas": 1,
        "selector": {"matchLabels": {SERVER_LABEL: name}},
        "template": {"metadata": marks, "spec": pod},
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "selector": {SERVER_LABEL: name},
            "ports": [{"name": PORT, "port": 80, "targetPort": PORT}],
        },
    }
    deployed = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": queued(metadata, settings),
        "spec": given({"strategy": strategy}) | of_pods,
    }
    return as_yaml([service, deployed])


def _probes() -> dict[str, Any]:
    """Return the probes: half an hour to load, then restarted if it fails for a minute."""
    asked = {"httpGet": {"path": "/health", "port": PORT}, "timeoutSeconds": 5}
    return {
        "startupProbe": asked | {"periodSeconds": 5, "failureThreshold": 360},
        "readinessProbe": asked | {"periodSeconds": 5},
        "livenessProbe": asked | {"periodSeconds": 10, "failureThreshold": 6},
    }
