"""A transit engine on loopback that keeps to the documented wire: paths, token header, base64, ``vault:vN:``, error bodies."""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM


class Transit:
    """One mount with one key of several versions. ``calls``: (path, headers, body) as they came in."""

    def __init__(self, token: str, key: str = "copyd", mount: str = "transit") -> None:
        self.token, self.key, self.mount = token, key, mount
        self.versions = [os.urandom(32)]
        self.sealed = False
        self.calls: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.answer: tuple[int, bytes] | None = None

    def rotate(self) -> None:
        """What `vault write -f transit/keys/copyd/rotate` does."""
        self.versions.append(os.urandom(32))

    def encrypt(self, row: dict[str, Any]) -> dict[str, Any]:
        plain = base64.b64decode(row["plaintext"], validate=True)
        nonce = os.urandom(12)
        sealed = AESGCM(self.versions[-1]).encrypt(nonce, plain, None)
        return {"ciphertext": f"vault:v{len(self.versions)}:{base64.b64encode(nonce + sealed).decode()}",
                "key_version": len(self.versions)}  # fmt: skip

    def decrypt(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            vault, version, text = row["ciphertext"].split(":")
            raw = base64.b64decode(text, validate=True)
            assert vault == "vault"
            plain = AESGCM(self.versions[int(version[1:]) - 1]).decrypt(raw[:12], raw[12:], None)
        except (InvalidTag, ValueError, AssertionError, IndexError):
            return {"error": "cipher: message authentication failed"}
        return {"plaintext": base64.b64encode(plain).decode()}

    def rewrap(self, row: dict[str, Any]) -> dict[str, Any]:
        told = self.decrypt(row)
        return told if "error" in told else self.encrypt(told)

    def respond(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, Any] | bytes]:
        """Status and body."""
        if self.answer is not None:
            return self.answer
        if self.sealed:
            return 503, {"errors": ["Vault is sealed"]}
        if headers.get("X-Vault-Token") != self.token:
            return 403, {"errors": ["permission denied"]}
        parts = path.split("/")
        if parts[:3] != ["", "v1", self.mount] or len(parts) != 5 or parts[3] not in ("encrypt", "decrypt", "rewrap"):
            return 404, {"errors": []}
        if parts[4] != self.key:
            return 400, {"errors": ["encryption key not found"]}
        rows = json.loads(body)["batch_input"]
        results = [getattr(self, parts[3])(row) for row in rows]
        return 400 if any("error" in row for row in results) else 200, {
            "request_id": "1", "lease_id": "", "renewable": False, "lease_duration": 0, "data": {"batch_results": results},
            "wrap_info": None, "warnings": None, "auth": None}  # fmt: skip


@contextmanager
def serving(transit: Transit) -> Iterator[str]:
    """The engine at an address of its own."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            transit.calls.append((self.path, dict(self.headers), json.loads(body)))
            status, told = transit.respond(self.path, dict(self.headers), body)
            text = told if isinstance(told, bytes) else json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            if 300 <= status < 400:
                self.send_header("Location", "http://127.0.0.1:9/v1/elsewhere")
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            """Nothing is printed."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
