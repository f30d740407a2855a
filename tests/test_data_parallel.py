"""A compiled Layer in paddle.DataParallel: two processes, gloo between them."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from paddle.base import core

SCRIPT = Path(__file__).with_name("data_parallel.py")
SECONDS = 120


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        found = []
        for _ in range(count):
            one = held.enter_context(socket.socket())
            one.bind(("127.0.0.1", 0))
            found.append(one.getsockname()[1])
        return found


def started(rank: int, ports: list[int]) -> subprocess.Popen[str]:
    master, *ends = (f"127.0.0.1:{port}" for port in ports)
    world = {
        "PADDLE_TRAINER_ID": str(rank),
        "PADDLE_TRAINERS_NUM": str(len(ends)),
        "PADDLE_TRAINER_ENDPOINTS": ",".join(ends),
        "PADDLE_CURRENT_ENDPOINT": ends[rank],
        "PADDLE_MASTER": master,
        "PADDLE_DISTRI_BACKEND": "gloo",
    }
    return subprocess.Popen(
        [sys.executable, str(SCRIPT)],
        env=os.environ | world,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(
    not hasattr(core, "ProcessGroupGloo"), reason="this Paddle has no gloo"
)
def test_two_processes_have_the_gradients_of_one() -> None:
    """By hooks on the parameters, which Paddle's reducer waits for; where these do not
    see ours, each process has the gradients of its own half, or waits for ever."""
    ports = free_ports(3)
    both = [started(rank, ports) for rank in range(2)]
    try:
        texts = [one.communicate(timeout=SECONDS) for one in both]
    finally:
        for one in both:
            one.kill()
    for one, (out, err) in zip(both, texts):
        assert one.returncode == 0, err[-2000:]
        found = json.loads(out.splitlines()[-1])
        assert found["alone"] > 0.01  # halves that differ: a sum over both shows
        assert max(found["step"], found["kept back"]) < 1e-5
        assert found["trained"] < 1e-4 and found["compiles"] == 1
