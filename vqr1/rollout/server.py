"""A vLLM server, looked at before anything is loaded: is it there, does it serve this policy, do the versions fit?"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import requests

from vqr1.errors import UserError

START = "start it with launch/vllm_server.sh MODEL"


def check_server(address: str, policy: Path, timeout: float) -> None:
    """Raises ValueError, with what to do, for a server that is down, serves another model or is of another version.

    ``policy``: the folder that training starts from. A server is waited for up to ``timeout`` seconds.
    """
    wait_for(address, timeout)
    served = ask(address, "/v1/models")["data"][0]
    if Path(served["root"]).expanduser().resolve() != policy.resolve():
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
        raise UserError(f"rollout.vllm.server={address} answers {what} with {reply.status_code}; {remedy}")
    return reply.json()


def installed_vllm() -> str:
    """The version of vLLM here, be it built for GPUs or for CPUs."""
    import vllm

    return vllm.__version__
