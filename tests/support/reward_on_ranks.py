"""Started once per rank by test_reward.py with the rows as its one word, in JSON.

Prints the rewards and metrics of this rank's share of the answers.
"""

import json
import sys

from accelerate import PartialState

from vqr1.reward import FormatReward, RankingReward, RegressionReward

state = PartialState(cpu=True)
columns = json.loads(sys.argv[1])
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
