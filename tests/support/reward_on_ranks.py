"""Started once per rank by test_reward.py: prints the rewards and metrics of this rank's share of the answers.

python tests/support/reward_on_ranks.py RANK WORLD PORT < rows.json
"""

import json
import os
import sys

rank, world, port = sys.argv[1:]
os.environ.update(
    RANK=rank,
    LOCAL_RANK=rank,
    WORLD_SIZE=world,
    LOCAL_WORLD_SIZE=world,
    MASTER_ADDR="127.0.0.1",
    MASTER_PORT=port,
    ACCELERATE_USE_CPU="true",
)

from accelerate import PartialState  # noqa: E402

from vqr1.reward import FormatReward, RankingReward, RegressionReward  # noqa: E402

state = PartialState(cpu=True)
assert state.num_processes == int(world)
columns = json.load(sys.stdin)
rows = len(columns["image_id"]) // state.num_processes
own = {key: values[state.process_index * rows :][:rows] for key, values in columns.items()}
rewards = {
    "batch": RankingReward(3, cohort_size=None),
    "cohort": RankingReward(3, cohort_size=2, use_mos_std=True, unreadable_reward=-1.0),
    "regression": RegressionReward(3, ranges={"five": (1, 5), "hundred": (0, 100)}, threshold=0.5),
    "format": FormatReward(thinking=True),
}
found = {}
for name, reward in rewards.items():
    metrics: dict[str, float] = {}
    paid = reward(**own, log_metric=metrics.__setitem__)
    found[name] = {"rewards": paid, "metrics": metrics}
print(json.dumps(found))
state.destroy_process_group()
