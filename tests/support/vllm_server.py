"""A server that speaks as vLLM's own OpenAI server does, with the answers of a policy in this process."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

from vqr1.rollout.offline import Policy, encode_prompts


class VllmServer(ThreadingHTTPServer):
    """``pages`` by path, a status in place of one that fails; ``fail``: what comes in place of the next answers."""

    daemon_threads = True

    def __init__(self, policy: Policy, root: str):
        super().__init__(("127.0.0.1", 0), Handler)
        self.policy = policy
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.root = root
        self.lock = threading.Lock()
        self.begin()

    def begin(self) -> None:
        """As if it had just been started."""
        served = {"id": "served", "root": self.root, "max_model_len": 4096}
        self.pages: dict[str, Any] = {"/version": {"version": "0.31.0"}, "/v1/models": {"data": [served]}}
        self.fail: list[Any] = []  # statuses, changed replies, or None for an answer
        self.asked: list[dict[str, Any]] = []  # the requests that were answered
        self.keys: list[str | None] = []  # sent with them
        self.most = 0  # that waited at a time
        self.waiting = 0

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        picture, text = asked["messages"][0]["content"]
        kind, _, data = picture["image_url"]["url"].partition(",")
        assert kind == "data:image/png;base64"
        example = {
            "image": Image.open(io.BytesIO(base64.b64decode(data))),
            "prompt": [{"role": "user", "content": text["text"]}],
            "answer_seed": asked["seed"],
        }
        (read,) = encode_prompts(self.policy.processor, [example], padding=False)["input_ids"]
        drawn = [self.policy.draw([example], asked["temperature"])[0][: asked["max_tokens"]] for _ in range(asked["n"])]
        texts = self.policy.processor.tokenizer.batch_decode(drawn, skip_special_tokens=True)
        choices = [{"message": {"content": said}, "token_ids": ids} for said, ids in zip(texts, drawn, strict=True)]
        return {"choices": choices, "prompt_token_ids": read}


class Handler(BaseHTTPRequestHandler):
    server: VllmServer

    def do_GET(self) -> None:
        self.reply(self.server.pages.get(self.path, 404))

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        here = self.server
        with here.lock:
            here.waiting += 1
            here.most = max(here.most, here.waiting)
            failure = here.fail.pop(0) if here.fail else None
        time.sleep(0.02)  # others come meanwhile
        with here.lock:
            here.waiting -= 1
            if failure is None:
                here.asked.append(asked)
                here.keys.append(self.headers["Authorization"])
                failure = here.answer(asked)
        self.reply(failure)

    def reply(self, page: Any) -> None:
        status = page if isinstance(page, int) else page.pop("status", 200) if isinstance(page, dict) else 200
        body = page if isinstance(page, str) else json.dumps({} if isinstance(page, int) else page)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def served(policy: Policy, root: str) -> Iterator[VllmServer]:
    server = VllmServer(policy, root)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
