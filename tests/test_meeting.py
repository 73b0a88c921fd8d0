"""Nodes and ranks that are started each by itself, and those that do not come."""

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.ports import free_port
from vqr1.errors import UserError
from vqr1.meeting import meet, meet_by_themselves, part_again


@pytest.fixture
def port():
    return free_port()


def test_all_meet_and_then_the_port_is_free(port):
    def come(number):
        store = meet(number, 3, "127.0.0.1", port, 20, "node")
        part_again(store, number, 3, "node")

    with ThreadPoolExecutor(3) as nodes:
        assert list(nodes.map(come, range(3))) == [None] * 3
    with socket.socket() as next_one:
        next_one.bind(("127.0.0.1", port))


def test_nodes_that_do_not_come_are_named(port):
    told = r"node 1, 3 of 4 did not come to 127.0.0.1:\d+ within 1 s"
    with pytest.raises(UserError, match=told), ThreadPoolExecutor(2) as nodes:
        list(nodes.map(lambda number: meet(number, 4, "127.0.0.1", port, 1, "node"), (0, 2)))


def test_a_first_node_that_does_not_come_is_named(port):
    with pytest.raises(UserError, match=f"node 0 of 2 did not come to 127.0.0.1:{port} within 1 s"):
        meet(1, 2, "127.0.0.1", port, 1, "node")


def test_a_port_that_is_taken_is_refused(port):
    with socket.socket() as other:
        other.bind(("0.0.0.0", port))
        other.listen()
        with pytest.raises(UserError, match=f"MASTER_PORT={port} cannot be listened at .* give another MASTER_PORT"):
            meet(0, 2, "127.0.0.1", port, 5, "rank")


@pytest.mark.parametrize("name", ["RANK", "MASTER_PORT"])
def test_a_place_that_is_no_number_is_refused(monkeypatch, name):
    for each, value in {"LOCAL_RANK": "0", "RANK": "0", "MASTER_ADDR": "here", "MASTER_PORT": "1", name: "one"}.items():
        monkeypatch.setenv(each, value)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    with pytest.raises(UserError, match=f"^{name}=one: it is a whole number"):
        meet_by_themselves(2, 1)
