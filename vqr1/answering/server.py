"""A policy that vLLM's own OpenAI server answers for: what it serves, and questions to it.

The pictures are fitted here and sent as PNG, so the server sees the very pixels that a policy in this process would.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from PIL import Image
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from vqr1.answering.model import Model, Served, find_model
from vqr1.answering.settings import AnswerSettings
from vqr1.data.pictures import TOKEN_PIXELS
from vqr1.errors import UserError
from vqr1.rollout.engine import Drawn, Question, Sampling
from vqr1.rollout.offline import text_tokens
from vqr1.rollout.vllm_engine import check_tokens
from vqr1.rollout_settings import longest_sequence

REQUESTS = 64  # requests that wait for their answers at the same time, at most
BATCH = 256  # answers after which what is rated is kept
SECONDS = 10.0, 600.0  # for a connection, and for an answer: those asked at the same time share the server
PAUSE = 0.5  # seconds before the second try again; twice as many before each further one
TRIES = 5
START = "start it with the line of the exported folder's README.md (vllm serve FOLDER ...)"
KEY = "VLLM_API_KEY"  # as vLLM calls it


def find_served(url: str, settings: AnswerSettings) -> Model:
    """The model that the server at ``url`` serves, with prompt and pixel limits of its folder here.

    ``settings.model`` is that folder, weights needless, or empty for the one that the server names. Raises UserError
    for a server that is not there, is not vLLM's or serves another model.
    """
    url = _base(url)
    listed = _look(url, "/v1/models")
    version = _look(url, "/version")
    try:
        first = listed["data"][0]
        served = Served(url, str(first["id"]), str(first["root"]), int(first["max_model_len"]), version["version"])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise UserError(f"{url}/v1/models is not what vLLM answers ({error!r}); {START}") from error
    name = settings.model or served.root
    if not settings.model and not (Path(name).expanduser() / "config.json").is_file():
        raise UserError(
            f"{url} serves {name}, which is no folder on this machine: give --model with a copy of that folder, which "
            "says what is asked (its *.safetensors can be left out)"
        )
    model = find_model(replace(settings, model=name), weights=False)
    if not _is_same(served.root, name, model):
        raise UserError(
            f"{url} serves {served.root}, and --model is {name}: give the server that serves it, or the folder that "
            "is served, or leave --model out where that folder is on this machine"
        )
    return replace(model, served=served)


def check_length(model: Model, processor: Any, max_tokens: int) -> None:
    """Raises UserError where the server has no room for the longest prompt and answer."""
    assert model.served
    text = text_tokens(processor, model.prompt, pictures=model.pictures)
    longest = longest_sequence(text, model.policy.max_pixels, TOKEN_PIXELS, max_tokens, model.pictures)
    if longest > model.served.length:
        raise UserError(
            f"{model.served.url} reads {model.served.length} tokens at most, and a picture of "
            f"{model.policy.max_pixels} pixels with an answer of {max_tokens} tokens takes {longest}: start it with "
            f"--max-model-len {longest}, or give fewer --max-pixels"
        )


class ServerEngine:
    """Asks the server, several questions at once. Greedy and seeded answers are vLLM's own, as in this process."""

    def __init__(self, served: Served, prompt: str, image_token: int, at_once: int = REQUESTS):
        self._served = served
        self._prompt = prompt
        self._image_token = image_token
        self._at_once = at_once
        self._session = _session(served.url)
        # A lost connection is tried again, an answer that does not come once: it may have been drawn for nothing.
        retries = Retry(
            TRIES,
            read=1,
            backoff_factor=PAUSE,
            status_forcelist=[429, 500, 502, 503, 504],
            allowed_methods=None,  # POST too: the same question has the same answer
            raise_on_status=False,
        )
        adapter = HTTPAdapter(pool_maxsize=at_once, max_retries=retries)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, adapter)

    def ask(self, questions: Sequence[Question], sampling: Sampling) -> list[list[Drawn]]:
        """The answers to each question, without log-probabilities.

        Raises UserError for a server that is lost, refuses, or reads other tokens than the policy does.
        """
        pictures = {id(picture): picture for question in questions for picture in question.pictures}
        pool = ThreadPoolExecutor(self._at_once)
        try:
            urls = dict(zip(pictures, pool.map(data_url, pictures.values()), strict=True))
            asked = [
                pool.submit(self._answers, each, [urls[id(picture)] for picture in each.pictures], sampling)
                for each in questions
            ]
            return [each.result() for each in asked]
        finally:
            pool.shutdown(cancel_futures=True)  # after an error the questions that are not sent yet are not sent

    def _answers(self, question: Question, pictures: Sequence[str], sampling: Sampling) -> list[Drawn]:
        shown: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": picture}} for picture in pictures]
        content = [*shown, {"type": "text", "text": self._prompt}]
        asked: dict[str, Any] = {
            "model": self._served.id,
            "messages": [{"role": "user", "content": content}],
            "n": question.k,
            "seed": question.seed,
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
            "stop_token_ids": list(sampling.stop),
            "logit_bias": {str(token): -100.0 for token in sampling.never},
            "return_token_ids": True,
            # Said, since vLLM would otherwise take them from the folder's generation_config.json.
            **{"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0},
            **{"presence_penalty": 0.0, "frequency_penalty": 0.0},
        }
        url = self._served.url
        try:
            reply = self._session.post(f"{url}/v1/chat/completions", json=asked, timeout=SECONDS)
        except requests.RequestException as error:
            raise UserError(
                f"{url} is lost ({_why(error)}), also after {TRIES} tries; see its log, start it again and give the "
                "same command: what --csv or --jsonl has of it is kept"
            ) from error
        if reply.status_code != 200:
            raise UserError(f"{url} answers {reply.status_code}: {_said(reply)}")
        try:
            said = reply.json()
            read = [int(token) for token in said["prompt_token_ids"]]
            answers = [Drawn([int(token) for token in each["token_ids"]], []) for each in said["choices"]]
        except (requests.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{url} answers what vLLM 0.26 and later do not ({error!r}): {_said(reply)}; {START}"
            ) from error
        check_tokens(question, read, self._image_token)
        if len(answers) != question.k:
            raise UserError(f"{url} gives {len(answers)} answers in place of {question.k}: is it vLLM's server?")
        return answers


def data_url(picture: Image.Image) -> str:
    """A picture as a URL that holds it as PNG: the same pixels."""
    written = io.BytesIO()
    picture.save(written, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(written.getvalue()).decode()}"


def _base(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise UserError(f"--server {url}: give the address with http://, such as http://localhost:8000")
    return url.rstrip("/").removesuffix("/v1")


def _session(url: str) -> requests.Session:
    """With the key, if there is one; without a proxy to this machine, for a proxy has another loopback."""
    session = requests.Session()
    host = urlsplit(url).hostname or ""
    session.trust_env = not (host in ("localhost", "::1") or host.startswith("127."))
    if key := os.environ.get(KEY):
        session.headers["Authorization"] = f"Bearer {key}"
    return session


def _look(url: str, page: str) -> Any:
    try:
        reply = _session(url).get(url + page, timeout=SECONDS[0])
    except requests.RequestException as error:
        raise UserError(f"{url} is not there ({_why(error)}); {START}, and wait until it is ready") from error
    if reply.status_code == 401:
        raise UserError(f"{url} answers 401, it wants a key: set {KEY} to the one that it was started with")
    if reply.status_code != 200:
        raise UserError(f"{url}{page} answers {reply.status_code}: is it vLLM's server? {START}")
    try:
        return reply.json()
    except requests.JSONDecodeError as error:
        raise UserError(f"{url}{page} does not answer with JSON: is it vLLM's server? {START}") from error


def _is_same(root: str, name: str, model: Model) -> bool:
    """Whether a server that was started with ``root`` serves the ``model`` called ``name``.

    On another machine a folder is known by its last name alone; that of an export may be its run's.
    """
    theirs, ours = Path(root).expanduser(), Path(name).expanduser()
    if (theirs / "config.json").is_file() and (ours / "config.json").is_file():
        return theirs.resolve() == ours.resolve()
    return theirs.name in (ours.name, model.name)


def _said(reply: requests.Response) -> str:
    """The beginning of what a server says, the message of its error where there is one."""
    try:
        return str(reply.json()["error"]["message"])[:300]
    except (requests.JSONDecodeError, KeyError, TypeError):
        return " ".join(reply.text.split())[:300]


def _why(error: requests.RequestException) -> str:
    """The innermost reason, without the pool and the address that it is wrapped in."""
    reason: Any = error.args[0] if error.args else error
    reason = getattr(reason, "reason", reason)
    return str(reason).rpartition(": ")[2] or type(error).__name__
