"""What the ranks of a run must have in common."""

import pytest
from torch.distributed import DistStoreError

from vqr1.config import Config, PolicyConfig
from vqr1.errors import UserError
from vqr1.training import ranks
from vqr1.training.ranks import difference, digests, join

FIRST = {"torch": "2.13.0", "trl": "1.16.0", "vllm": None}


def test_ranks_with_the_same_of_everything_agree():
    assert difference([("a", FIRST)] * 3) is None


def test_another_version_is_told_with_its_host_and_rank():
    told = difference([("a", FIRST), ("a", FIRST), ("b", {**FIRST, "trl": "1.15.0"})])
    assert told and told.startswith("trl is 1.16.0 on a (rank 0) and 1.15.0 on b (rank 2)")


def test_a_package_that_one_node_lacks_is_told():
    told = difference([("a", FIRST), ("b", {**FIRST, "torch": None})])
    assert told and "torch is 2.13.0 on a (rank 0) and None on b" in told


def test_what_a_rank_did_not_look_at_is_not_compared():
    """Of a machine's ranks one reads the policy's files."""
    assert difference([("a", {**FIRST, "policy": "1f"}), ("a", FIRST)]) is None


def test_data_and_policy_are_compared_by_their_content():
    splits = {"five": {"hash": "ab"}}
    rows = [{"image_id": "1", "part": "train", "mos": 3.0, "content": "cd"}]
    same = digests(splits, rows, {"model.safetensors": "ef"})
    assert same == digests({"five": {"hash": "ab", "parts": 1}}, [dict(rows[0])], {"model.safetensors": "ef"})
    for other in (
        digests({"five": {"hash": "ba"}}, rows, {"model.safetensors": "ef"}),
        digests(splits, [{**rows[0], "mos": 3.5}], {"model.safetensors": "ef"}),
        digests(splits, rows, {"model.safetensors": "00"}),
    ):
        assert difference([("a", same), ("b", other)])


def test_a_rank_that_does_not_come_to_torchruns_group_is_one_message(monkeypatch):
    def late(**_):
        raise DistStoreError("wait timeout after 11500ms, keys: /default_pg/0//cpu//0/1\nand a stack")

    monkeypatch.setattr(ranks, "PartialState", late)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        UserError, match=r"^not all 2 ranks have come within 12 s \(trainer.ddp_timeout=5\): .*0/1\. One"
    ):
        join(Config(policy=PolicyConfig(path="tiny"), trainer={"ddp_timeout": 5}))
