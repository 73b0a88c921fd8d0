"""A vLLM server, looked at before anything is loaded: is it there, does it serve this policy, do the versions fit?"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests

from vqr1.errors import UserError

START = "start it with launch/vllm_server.sh MODEL"


def check_server(address: str, policy: Path, timeout: float, find: Callable[[str], Path] = Path) -> None:
    """Raises ValueError, with what to do, for a server that is down, serves another model or is of another version.

    ``policy``: the folder that training starts from. A server is waited for up to ``timeout`` seconds. ``find``: from
    what a server was started with, which may be a hub id, to its folder here.
    """
    wait_for(address, timeout)
    served = ask(address, "/v1/models")["data"][0]
    if not is_folder(served["root"], policy, find):
        raise UserError(
            f"rollout.vllm.server={address} serves {served['root']}, and the policy is {policy}: their answers would "
            f"not be the policy's. Stop it and {START.replace('MODEL', str(policy))}"
        )
    theirs, ours = ask(address, "/version")["version"], installed_vllm()
    if theirs != ours:
        raise UserError(
            f"rollout.vllm.server={address} runs vLLM {theirs}, and here is {ours}: they exchange weights, and must be "
            "the same. Start the server from this environment"
        )
    settings = ask(address, "/server_info?config_format=json", "VLLM_SERVER_DEV_MODE=1")["vllm_config"]
    mode = settings["model_config"]["logprobs_mode"]
    if mode != "processed_logprobs":
        raise UserError(
            f"rollout.vllm.server={address} reports {mode}: not the probabilities that it draws from. Stop it and "
            f"{START}, which sets --logprobs-mode processed_logprobs"
        )


def is_folder(served: str, policy: Path, find: Callable[[str], Path]) -> bool:
    """Whether the model that a server names is the one in the folder ``policy``."""
    try:
        folders = [Path(served).expanduser(), find(served)]
    except (FileNotFoundError, ValueError):  # no model of that name is here, or it is no name of a model
        folders = [Path(served).expanduser()]
    return policy.resolve() in [folder.resolve() for folder in folders]


def wait_for(address: str, timeout: float) -> None:
    """Return once the server is healthy."""
    until = time.monotonic() + timeout
    while True:
        try:
            if requests.get(f"{address}/health", timeout=10).status_code == 200:
                return
            reason = "it is not healthy yet"
        except requests.RequestException as error:
            reason = type(error).__name__
        if time.monotonic() >= until:
            raise UserError(
                f"rollout.vllm.server={address} is not there after {timeout:.0f} s ({reason}); {START}, or set "
                "rollout=vllm_colocate"
            )
        time.sleep(min(1.0, timeout))


def ask(address: str, what: str, needs: str | None = None) -> Any:
    """The server's JSON. Raises ValueError where it has none, with the setting that the page ``needs``."""
    reply = requests.get(f"{address}{what}", timeout=30)
    if reply.status_code != 200:
        remedy = f"start it with {needs}, as launch/vllm_server.sh does" if needs else "is it a vLLM server?"
        if reply.status_code >= 500:  # /server_info fails where there is no pip to list packages by (vLLM 0.31)
            remedy = "its own log says why; is pip installed in its environment?"
        raise UserError(f"rollout.vllm.server={address} answers {what} with {reply.status_code}; {remedy}")
    return reply.json()


def installed_vllm() -> str:
    """The version of vLLM here, be it built for GPUs or for CPUs."""
    import vllm

    return vllm.__version__
