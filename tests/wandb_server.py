"""A local W&B server that accepts one run of the real `wandb sync`."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PROJECT = {"id": "a project", "name": "workflow", "entity": {"id": "an entity", "name": "me"}}


@dataclass
class WandbServer:
    """What was sent of a run.

    Attributes:
        run: what describes it, by GraphQL's names.
        lines: of its history.
        files: of the run by their path; of an artifact by its client's id and their path.
        committed: the artifacts that are whole, by their client's id.
        complete: how often the run was told to be at its end.
        unknown: what was asked and has no answer here; it is refused, for without an answer
            `wandb sync` would ask for it again and again.
    """

    url: str = ""
    run: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    committed: set[str] = field(default_factory=set)
    complete: int = 0
    unknown: list[str] = field(default_factory=list)

    def take(self, path: str, body: bytes) -> tuple[int, Any]:
        """The status of the answer to a request, and the answer."""
        if path.startswith("/upload/"):
            self.files[path.removeprefix("/upload/")] = body
        elif path.endswith("/file_stream"):
            self._stream(json.loads(body))
        elif path == "/graphql":
            asked = json.loads(body)
            with suppress(KeyError):
                return 200, {"data": self._data(asked["operationName"], asked.get("variables"))}
            self.unknown.append(asked["query"])
            return 400, {"errors": [{"message": "that is unknown here"}]}
        return 200, {}

    def _stream(self, sent: dict[str, Any]) -> None:
        history = sent.get("files", {}).get("wandb-history.jsonl")
        if history:
            self.lines[history["offset"] :] = history["content"]
        self.complete += sent.get("complete", False)

    def _data(self, operation: str, given: Any) -> dict[str, Any]:
        """The answer to a query of GraphQL."""
        match operation:
            case "ServerFeaturesQuery":
                return {"serverInfo": {"features": []}}
            case "RunResumeStatus":
                return {"model": PROJECT | {"bucket": self._bucket() if self.run else None}}
            case "UpsertBucket":
                known = bool(self.run)
                self.run |= {name: value for name, value in given.items() if value is not None}
                return {"upsertBucket": {"bucket": self._bucket(), "inserted": not known}}
            case "CreateRunFiles":
                files = [{"name": name, **self._upload(name)} for name in given["files"]]
                return {"createRunFiles": {"runID": "a run", "uploadHeaders": [], "files": files}}
            case "CreateArtifact":
                made = {"id": given["input"]["clientID"], "state": "PENDING"}
                return {"createArtifact": {"artifact": made | {"artifactSequence": {}}}}
            case "CreateArtifactManifest":
                file = self._upload(f"{given['artifactID']}/manifest")
                return {"createArtifactManifest": {"artifactManifest": {"id": "a", "file": file}}}
            case "CreateArtifactFiles":
                edges = [
                    {"node": {**self._upload(f"{file['artifactID']}/{file['name']}"),
                              "artifact": {"id": file["artifactID"]}}}
                    for file in given["input"]["artifactFiles"]
                ]  # fmt: skip
                return {"createArtifactFiles": {"files": {"edges": edges}}}
            case "CommitArtifact":
                self.committed.add(given["artifactID"])
                return {"commitArtifact": {"artifact": {"id": given["artifactID"]}}}
        raise KeyError(operation)

    def _bucket(self) -> dict[str, Any]:
        """The run, for its next start to go on after what is here of it."""
        begun = json.loads(self.run["config"])["_wandb"]["value"]["t"]  # without it, it is new
        return {
            "id": "a run", "name": self.run["name"], "displayName": self.run["displayName"],
            "config": self.run["config"], "wandbConfig": json.dumps({"t": begun}),
            "summaryMetrics": "{}", "project": PROJECT,
            "historyLineCount": len(self.lines), "historyTail": json.dumps(self.lines[-1:]),
            "eventsLineCount": 0, "eventsTail": "[]", "logLineCount": 0,
        }  # fmt: skip

    def _upload(self, name: str) -> dict[str, Any]:
        return {"uploadUrl": f"{self.url}/upload/{name}", "uploadHeaders": []}


@contextmanager
def serving() -> Iterator[WandbServer]:
    """A server that is reached at its URL meanwhile."""
    made = WandbServer()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, found = made.take(self.path, body)
            answer = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_POST = do_PUT = answer  # noqa: N815 - the names that http.server calls

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
