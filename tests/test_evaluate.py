"""``vqr1 evaluate``: what is rated, by whom, in which order, and how an interrupted evaluation goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from PIL import Image

from tests.support import miniatures
from tests.support.results import rows_of
from tests.support.runs import environment, forked
from vqr1.answering.methods import Answered
from vqr1.answering.model import find_model, load_model
from vqr1.answering.settings import Method
from vqr1.command_words import evaluate_words
from vqr1.config import Config, PolicyConfig, as_dict
from vqr1.data import DATASETS, Sample, SplitRule, read_dataset
from vqr1.data.ahead import opened
from vqr1.data.splits import Seen, split_hash
from vqr1.errors import UserError
from vqr1.evaluation.results import ROWS, SETTINGS, SetFacts, read_evaluation
from vqr1.packaged import packaged
from vqr1.policy import windows
from vqr1.policy.load import files_hash
from vqr1.rating.rater import load_rater
from vqr1.scoring.evaluate import PictureBatch, default_folder, evaluate, plan, rate
from vqr1.scoring.result_folder import ResultFolder, make_record
from vqr1.scoring.sets import EvaluatedSet, _limited, read_sets
from vqr1.scoring.settings import EvaluateConfig, Part, check, from_hydra, register


def composed(*words):
    register()
    with initialize_config_dir(str((packaged("conf") / "evaluate").resolve()), version_base="1.3"):
        return from_hydra(compose("evaluate", evaluate_words(words)))


# Settings


def test_the_command_line_becomes_settings():
    config = composed("model=runs/a", "data=[bid,clive]", "k=3", "temperature=0.7", "seed=2", "folder=x")
    assert (config.model, config.data, config.k, config.temperature, config.seed) == (
        "runs/a",
        ["bid", "clive"],
        3,
        0.7,
        2,
    )
    assert config.method is Method.mean


def test_the_root_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("VQR1_DATA", "/elsewhere")
    assert composed("model=tiny", "data=[bid]").root == "/elsewhere"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data=[bid]"], "model= is missing; give tiny, a hub id, a folder of weights, or a run folder"),
        (["model=tiny"], "data= names no dataset; give data=.bid,clive,...., see vqr1 data list"),
        (["model=tiny", "data=[bid,bid]"], "names a dataset twice"),
        (["model=tiny", "data=[bid]", "k=0"], "k=0: set it to 1 or more"),
        (["model=tiny", "data=[bid]", "limit=2"], "limit=2: a correlation needs three pictures"),
        (["model=tiny", "data=[bid]", "temperature=0"], "temperature=0.0: set it above 0; method=greedy takes"),
        (["model=tiny", "data=[bid]", "seed=-1"], "seed=-1: set it to 0 or more"),
        (["model=tiny", "data=[bid]", "prompt=rate"], "prompt 'rate' is neither one of"),
        (["model=tiny", "data=[bid]", "+beta=1"], "beta is no setting; see EvaluateConfig in vqr1.scoring.settings"),
    ],
)
def test_wrong_settings_are_named(words, message):
    with pytest.raises(ValueError, match=message):
        composed(*words)


def test_a_setting_of_the_wrong_type_is_refused_by_hydra():
    with pytest.raises(HydraException):
        composed("model=tiny", "data=[bid]", "k=many")


# What is rated


@pytest.fixture
def kadid(tmp_path, sized):
    sized("kadid10k", 20)
    folder = tmp_path / "data" / "kadid10k"
    (folder / "images").mkdir(parents=True)
    names = [f"{ref}_01_{level:02}.png" for ref in ("I01", "I07", "I19", "I81") for level in range(1, 6)]
    rows = [f"{name},{name[:3]}.png,{4.9 - 0.1 * i:.2f},0.2" for i, name in enumerate(names)]
    (folder / "dmos.csv").write_text("\n".join(["dist_img,ref_img,dmos,var", *rows]) + "\n")
    for name in names:
        (folder / "images" / name).touch()
    return tmp_path / "data"


def test_a_set_that_was_not_seen_is_rated_whole(kadid):
    (rated,) = read_sets(["kadid10k"], kadid, trained_on=["spaq"])
    assert len(rated.samples) == 20
    assert (rated.facts.part, rated.facts.trained_on, rated.facts.title) == ("all", False, DATASETS["kadid10k"].title)


def test_a_set_that_was_trained_on_is_rated_on_its_test_split_and_marked(kadid):
    (rated,) = read_sets(["kadid10k"], kadid, trained_on=["kadid10k"])
    assert {sample.group for sample in rated.samples} == {"I19", "I81"}
    assert (rated.facts.part, rated.facts.trained_on, rated.facts.pictures) == ("test", True, 10)


def test_a_split_that_is_not_the_trainings_is_refused(kadid):
    (rated,) = read_sets(
        ["kadid10k"],
        kadid,
        ["kadid10k"],
        training=Seen(hashes={"kadid10k": split_hash(read_dataset("kadid10k", kadid))}),
    )
    assert len(rated.samples) == 10
    with pytest.raises(ValueError, match="kadid10k is divided otherwise than when the model was trained"):
        read_sets(["kadid10k"], kadid, ["kadid10k"], training=Seen(hashes={"kadid10k": "0"}))
    assert read_sets(["kadid10k"], kadid, [], training=Seen(hashes={"kadid10k": "0"}))  # never trained on: no matter


@pytest.mark.parametrize("seen", [[], ["kadid10k"]])
def test_one_split_of_a_set_is_rated_whether_it_was_trained_on_or_not(kadid, seen):
    (rated,) = read_sets(["kadid10k"], kadid, seen, part=Part.validation)
    assert {sample.group for sample in rated.samples} == {"I07"}
    assert (rated.facts.part, rated.facts.trained_on) == ("validation split", bool(seen))
    (rated,) = read_sets(["kadid10k"], kadid, seen, part=Part.test)
    assert {sample.group for sample in rated.samples} == {"I19", "I81"}
    assert rated.facts.part == ("test" if seen else "test split")


def test_a_training_split_is_no_part_to_rate():
    with pytest.raises(HydraException, match="train"):
        composed("model=tiny", "data=[bid]", "part=train")


def test_demonstration_sets_are_rated_on_their_test_photographs(data_root):
    (rated,) = read_sets(["demo_five"], data_root, trained_on=[])
    assert {sample.group for sample in rated.samples} == {"astronaut", "chelsea", "coffee"}
    assert rated.facts.pseudo_labels
    assert (rated.facts.part, rated.facts.trained_on) == ("test", False)


def test_a_set_of_ones_own_is_an_ordinary_set_whatever_its_name(tmp_path):
    from tests.test_declared import ROWS, declare

    declare(tmp_path, *ROWS)
    (tmp_path / "mine").rename(tmp_path / "demo_mine")
    (rated,) = read_sets(["demo_mine"], tmp_path, trained_on=[])
    assert (rated.facts.part, len(rated.samples), rated.facts.pseudo_labels) == ("all", 3, False)


def test_a_limit_is_said(kadid):
    (rated,) = read_sets(["kadid10k"], kadid, [], limit=6)
    assert len(rated.samples) == 6
    assert rated.facts.part == "6 of 20 pictures (all)"
    (again,) = read_sets(["kadid10k"], kadid, [], limit=6)
    assert again == rated
    (other,) = read_sets(["kadid10k"], kadid, [], limit=7)
    assert other.facts.labels_sha256 != rated.facts.labels_sha256


def test_a_limit_keeps_scenes_whole():
    samples = [Sample("", float(i), None, "sriqa", f"x{i // 11}", f"sriqa/{i}") for i in range(110)]
    kept = _limited(samples, 30, DATASETS["sriqa"])
    assert len(kept) == 33
    assert all([s.group for s in kept].count(group) == 11 for group in {s.group for s in kept})


def test_a_published_set_must_be_whole_unless_a_part_is_allowed(kadid, sized):
    sized("kadid10k", 10125)
    with pytest.raises(ValueError, match=r"has 20 rated pictures where 10125 .*check kadid10k .* with partial=true$"):
        read_sets(["kadid10k"], kadid, [], whole_unless="partial")
    (rated,) = read_sets(["kadid10k"], kadid, [])
    assert rated.facts.part == "20 of 10125 published pictures"
    (seen,) = read_sets(["kadid10k"], kadid, ["kadid10k"], limit=6)
    assert seen.facts.part == "6 of 10 pictures (test split of 20 of 10125 published pictures)"


def test_too_few_pictures_are_refused(kadid):
    labels = kadid / "kadid10k" / "dmos.csv"
    labels.write_text(
        "\n".join(line for line in labels.read_text().splitlines() if "I19" not in line and "I81" not in line)
    )
    with pytest.raises(ValueError, match="kadid10k has 0 test pictures, and a correlation needs three; take it out"):
        read_sets(["kadid10k"], kadid, ["kadid10k"])


# Whose answers


def run_folder(folder, policy, train=("kadid10k",), parts=("best", "final")):
    config = Config(policy=PolicyConfig(path="base", min_pixels=3136, max_pixels=50176))
    config.data.train, config.data.validation = list(train), ["csiq"]
    config.rollout.prompt = "published"
    config.data.split_seed = 7
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(as_dict(config)))
    (folder / "splits.json").write_text('{"kadid10k": {"hash": "abc"}}')
    for part in parts:
        (folder / part).symlink_to(policy)
    return folder


def test_a_run_gives_its_best_weights_and_what_it_learnt_from(tmp_path, policy_folder):
    run = run_folder(tmp_path / "run", policy_folder)
    model = find_model(EvaluateConfig(model=str(run), data=["bid"]))
    assert model.policy.path == str(run / "best")
    assert (model.name, model.prompt, model.policy.max_pixels) == ("run", "published", 50176)
    assert model.trained_on == ["kadid10k", "csiq"]  # chosen by csiq, so it has seen it
    assert model.seen == Seen(SplitRule(seed=7), {"kadid10k": "abc"})
    final = find_model(EvaluateConfig(model=str(run / "final"), data=["bid"]))
    assert (final.policy.path, final.trained_on) == (str(run / "final"), model.trained_on)


def test_without_a_best_the_final_weights_are_taken(tmp_path, policy_folder):
    run = run_folder(tmp_path / "run", policy_folder, parts=("final",))
    assert find_model(EvaluateConfig(model=str(run), data=["bid"])).policy.path == str(run / "final")
    empty = run_folder(tmp_path / "empty", policy_folder, parts=())
    with pytest.raises(ValueError, match=r"empty is a run without best/ or final/; let it end"):
        find_model(EvaluateConfig(model=str(empty), data=["bid"]))


def test_a_run_of_an_older_format_is_evaluated_as_ever(tmp_path, policy_folder):
    run = run_folder(tmp_path / "run", policy_folder)
    (run / "versions.json").write_text('{"vqr1": "0.1.0"}')
    assert find_model(EvaluateConfig(model=str(run), data=["bid"])).policy.path == str(run / "best")


def test_given_settings_win_over_the_runs(tmp_path, policy_folder):
    run = run_folder(tmp_path / "run", policy_folder)
    config = EvaluateConfig(
        model=str(run), data=["bid"], name="mine", prompt="paper", max_pixels=3136, trained_on=["spaq"], dtype="float32"
    )
    model = find_model(config)
    assert (model.name, model.prompt, model.policy.max_pixels, model.policy.dtype) == ("mine", "paper", 3136, "float32")
    assert model.trained_on == ["spaq"]


def test_plain_weights_have_seen_nobody_knows_what(policy_folder):
    model = find_model(EvaluateConfig(model=str(policy_folder), data=["bid"]))
    assert (model.name, model.trained_on, model.adapter) == (policy_folder.name, None, None)
    tiny = find_model(EvaluateConfig(model="tiny", data=["bid"]))
    assert (tiny.name, tiny.policy.max_pixels) == ("tiny", 200704)
    with pytest.raises(FileNotFoundError, match="holds no model"):
        find_model(EvaluateConfig(model="./nothing", data=["bid"]))


def test_the_hash_is_of_the_weights(tmp_path):
    one, other = tmp_path / "1", tmp_path / "2"
    one.write_bytes(b"weights")
    other.write_bytes(b"weighty")
    assert files_hash([one]) == files_hash([one]) != files_hash([other])
    assert len({files_hash(files) for files in ([one], [one, other], [other, one])}) == 3


def test_an_adapter_is_laid_on_the_weights_it_was_trained_over(tmp_path, policy_folder):
    from peft import get_peft_model

    from vqr1.config import LoraSettings
    from vqr1.policy.load import load_policy, lora_config

    adapted = get_peft_model(load_policy(PolicyConfig(path=str(policy_folder))), lora_config(LoraSettings(r=2)))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    run = run_folder(tmp_path / "run", policy_folder, parts=())
    adapted.save_pretrained(run / "best")
    settings = yaml.safe_load((run / "config.yaml").read_text())
    settings["policy"]["path"] = str(policy_folder)
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    model = find_model(EvaluateConfig(model=str(run), data=["bid"], dtype="float32", attention="sdpa"))
    assert model.policy.path == str(policy_folder)
    assert len(model.files()) == 2  # the base and the adapter
    loaded, _ = load_model(model)
    assert loaded.config.vision_config._attn_implementation == windows.NAME
    key = "model.language_model.layers.0.self_attn.q_proj.weight"
    expected = adapted.merge_and_unload().state_dict()[key]
    assert torch.allclose(loaded.state_dict()[key].cpu(), expected, atol=1e-6)
    plain = load_policy(PolicyConfig(path=str(policy_folder))).state_dict()[key]
    assert not torch.allclose(expected, plain, atol=1e-3)


# The loop


def samples_of(n, name="s"):
    return [Sample(f"{i}.png", float(i), None, name, f"g{i}", f"{name}/{i}") for i in range(n)]


def pictures_of(n):
    return [Image.new("RGB", (28, 28), (i, 0, 0)) for i in range(n)]


def answers_by_colour(pictures):
    """Three answers to each picture that tell its colour and its place."""
    return [
        Answered([f"<think>{i}.{k}</think>" for k in range(3)], [1.0 + each.getpixel((0, 0))[0], None, 5.0],
                 [0.0, None, 0.0], None, 9)
        for i, each in enumerate(pictures)
    ]  # fmt: skip


def test_each_picture_gets_its_own_answers_and_one_that_cannot_be_opened_is_missing():
    first, second, third = pictures_of(3)
    rows = rate(PictureBatch("s", samples_of(4)), [first, "1.png: truncated", second, third], answers_by_colour)
    assert [row.scores for row in rows] == [[1.0, None, 5.0], [], [2.0, None, 5.0], [3.0, None, 5.0]]
    assert [row.status for row in rows] == ["ok", "missing", "ok", "ok"]
    assert [row.reasoning for row in rows[:3]] == ["<think>0.0</think>", "1.png: truncated", "<think>1.0</think>"]
    assert [(row.image_id, row.mos, row.group) for row in rows][2] == ("s/2", 2.0, "g2")
    assert [(row.stds, row.weights, row.tokens) for row in rows[:2]] == [(None, None, 9), (None, None, None)]
    (row,) = rate(PictureBatch("s", samples_of(1)), ["gone"], answers_by_colour)
    assert row.status == "missing"


def test_a_distribution_that_was_read_off_is_in_its_row():
    exact = Answered(["a", "b"], [3.0, 5.0], [0.5, 0.7], [0.9, 0.9], 20)
    (row,) = rate(PictureBatch("s", samples_of(1)), pictures_of(1), lambda _: [exact])
    assert (row.stds, row.weights, row.tokens) == ([0.5, 0.7], [0.9, 0.9], 20)
    assert row.score == pytest.approx(4.0)
    assert row.std == pytest.approx(((0.25 + 0.49) / 2 + 2) ** 0.5)  # within, and between reasonings


def test_no_batch_spans_two_sets():
    sets = [EvaluatedSet(name, SetFacts(name, n, "all"), samples_of(n, name)) for name, n in (("a", 5), ("b", 4))]
    batches = plan(sets, 2)
    assert [(b.name, len(b.samples)) for b in batches] == [("a", 2), ("a", 2), ("a", 1), ("b", 2), ("b", 2)]
    assert [s for b in batches for s in b.samples] == [*sets[0].samples, *sets[1].samples]


def test_pictures_are_opened_in_order_and_broken_ones_say_why():
    def load(path):
        if path == "1.png":
            raise UserError("1.png: truncated")
        return Image.new("RGB", (28, 28), (int(path[0]), 0, 0))

    batches = [["0.png", "1.png"], ["2.png", "3.png"], ["4.png"]]
    found = [
        [p if isinstance(p, str) else p.getpixel((0, 0))[0] for p in pictures] for pictures in opened(batches, load)
    ]
    assert found == [[0, "1.png: truncated"], [2, 3], [4]]


def test_the_folder_is_the_same_for_the_same_command():
    model = find_model(EvaluateConfig(model="tiny", data=["bid"]))
    config = EvaluateConfig(model="tiny", data=["bid"], seed=3)
    assert default_folder(config, model) == "evaluations/tiny-k6-seed3"
    for changes, folder in (
        ({"method": Method.greedy}, "tiny-greedy"),
        ({"method": Method.expected}, "tiny-expected-k1-seed3"),
        ({"until": 0.05}, "tiny-until0.05-seed3"),
        ({"method": Method.greedy, "part": Part.validation}, "tiny-greedy-validation"),
    ):
        assert default_folder(replace(config, **changes), model) == f"evaluations/{folder}"


# The result folder

ROWS_OF_BID = rows_of("bid", 7)
BATCHES = [[row.image_id for row in ROWS_OF_BID[i : i + 3]] for i in (0, 3, 6)]


def record(**changes):
    settings = {"model": "m", "k": 3, "seed": 0, **changes}
    return make_record("ours", settings, None, {"bid": SetFacts("BID", 7, "all")}, {"torch": "2", "numpy": "1"})


def begun(folder, batches):
    results = ResultFolder(folder)
    done = results.open(record(), BATCHES)
    for batch in batches:
        first = 3 * batch
        results.append(ROWS_OF_BID[first : first + 3])
    results.close()
    return done


@pytest.mark.parametrize("text", [b"{", b"[]", b"{}", b"\xe9"])
def test_a_folder_with_a_damaged_record_is_refused(tmp_path, text):
    (tmp_path / "evaluation.json").write_bytes(text)
    with pytest.raises(UserError, match=r"evaluation.json: not a record of vqr1 evaluate .*; give another folder="):
        ResultFolder(tmp_path).open(record(), BATCHES)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/e cannot be written .(Not a directory|File exists).; give another fold"):
        ResultFolder(tmp_path / "file" / "e").open(record(), BATCHES)


def test_a_folder_goes_on_after_its_last_whole_batch(tmp_path):
    folder = tmp_path / "e"
    assert begun(folder, [0, 1]) == 0
    assert begun(folder, [2]) == 2
    assert begun(folder, []) == 3
    assert read_evaluation(folder).rows["bid"] == ROWS_OF_BID


@pytest.mark.parametrize("lost", [1, 30, 200, 500, 900])
def test_a_torn_batch_is_dropped(tmp_path, lost):
    folder = tmp_path / "e"
    begun(folder, [0, 1, 2])
    whole = (folder / ROWS).read_bytes()
    (folder / ROWS).write_bytes(whole[:-lost])
    ends = [whole.index(b"bid/00003"), whole.index(b"bid/00006")]
    expected = sum(len(whole) - lost >= whole.rindex(b"\n", 0, end) + 1 for end in ends)
    assert begun(folder, range(expected, 3)) == expected
    assert (folder / ROWS).read_bytes() == whole


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 6}, "holds an evaluation with k = 3, and now it is 6; go on with the same settings, or give another"),
        ({"prompt": "other"}, 'prompt = null, and now it is "other"'),
    ],
)
def test_other_settings_are_refused(tmp_path, change, message):
    begun(tmp_path / "e", [0])
    with pytest.raises(ValueError, match=message):
        ResultFolder(tmp_path / "e").open(record(**change), BATCHES)


def test_answers_of_an_older_version_are_refused(tmp_path):
    begun(tmp_path / "e", [0])
    with pytest.raises(UserError, match="is of an older version, whose answers had other seeds; give another"):
        ResultFolder(tmp_path / "e").open(record(method="mean"), BATCHES)


def test_other_pictures_and_versions_are_refused(tmp_path):
    begun(tmp_path / "e", [0])
    other = record()
    other["sets"]["bid"]["labels_sha256"] = "1"
    with pytest.raises(ValueError, match="holds an evaluation with data bid = "):
        ResultFolder(tmp_path / "e").open(other, BATCHES)
    other = record()
    other["versions"]["torch"] = "3"
    with pytest.raises(ValueError, match='torch version = "2", and now it is "3"'):
        ResultFolder(tmp_path / "e").open(other, BATCHES)


def test_where_the_weights_lie_and_numpys_version_do_not_matter(tmp_path):
    begun(tmp_path / "e", [0])
    same = record(model="elsewhere")
    same["versions"]["numpy"] = "2"
    assert ResultFolder(tmp_path / "e").open(same, BATCHES) == 1


def test_two_processes_do_not_write_one_folder(tmp_path):
    first = ResultFolder(tmp_path / "e")
    first.open(record(), BATCHES)
    with pytest.raises(
        ValueError, match=r"is being written by process \d+ on .*; wait until .*, or give another folder="
    ):
        ResultFolder(tmp_path / "e").open(record(), BATCHES)
    first.close()
    second = ResultFolder(tmp_path / "e")
    second.open(record(), BATCHES)
    second.close()


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match="holds other files and no evaluation; give another folder="):
        ResultFolder(tmp_path).open(record(), BATCHES)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_interruption_at_the_very_start_is_no_obstacle(tmp_path):
    (tmp_path / ROWS).touch()
    (tmp_path / f"{SETTINGS}.new").write_text("{")
    (tmp_path / "lock").touch()
    assert ResultFolder(tmp_path).open(record(), BATCHES) == 0


def test_lines_of_other_pictures_are_refused(tmp_path):
    begun(tmp_path / "e", [0, 2])
    with pytest.raises(ValueError, match=r"results.jsonl: line 4 and on are not the pictures of this evaluation"):
        ResultFolder(tmp_path / "e").open(record(), BATCHES)


# The whole


def evaluation_of(folder: Path, root: Path, *words: str) -> list[str]:
    return [
        "evaluate", "model=tiny", "data=[demo_five,demo_hundred]", f"root={root}", "k=2",
        "limit=40", "batch=4", "max_tokens=32", "threads=1", f"folder={folder}", *words,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, data_root):
    folder = tmp_path_factory.mktemp("evaluation") / "undisturbed"
    done = forked(evaluation_of(folder, data_root))
    assert done.returncode == 0, done.stderr[-4000:]
    return folder, done


@pytest.mark.slow
def test_evaluating_prints_the_table_with_intervals(undisturbed):
    folder, done = undisturbed
    assert "published" not in done.stdout  # of sets that the paper does not have
    assert "| tiny " in done.stdout
    assert "95 % interval" in done.stdout
    assert "pseudo-labels" in done.stdout
    assert "80/80" in done.stderr and "picture/s" in done.stderr  # progress, with the time that is left
    read = read_evaluation(folder)
    assert [len(rows) for rows in read.rows.values()] == [40, 40]
    assert read.settings["weights_sha256"] == files_hash(find_model(EvaluateConfig(model="tiny", data=["x"])).files())
    assert json.loads((folder / "table.json").read_text())["models"][0]["sets"]["demo_five"]["runs"]
    assert (folder / "table.md").read_text() in done.stdout


@pytest.mark.slow
@pytest.mark.faults
def test_killed_in_the_middle_and_started_again_it_ends_with_the_same_file(undisturbed, tmp_path, data_root, fault):
    folder = tmp_path / "killed"
    words = evaluation_of(folder, data_root)
    command = [sys.executable, "-m", "vqr1", *words]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment())
    patience = time.monotonic() + 200
    while not ((folder / ROWS).is_file() and (folder / ROWS).stat().st_size > 4000):
        assert running.poll() is None and time.monotonic() < patience
        time.sleep(0.002)
    os.kill(running.pid, signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    whole = (undisturbed[0] / ROWS).read_bytes()
    half = (folder / ROWS).read_bytes()
    assert 4000 < len(half) < len(whole)
    (folder / ROWS).write_bytes(half[:-7])  # and the last line torn
    done = forked(words)
    assert done.returncode == 0, done.stderr[-4000:]
    assert (folder / ROWS).read_bytes() == whole
    assert (folder / SETTINGS).read_bytes() == (undisturbed[0] / SETTINGS).read_bytes()
    fault(
        "SIGKILL to `vqr1 evaluate`",
        how="in the middle, and its last line torn",
        happens="the same command ends with the same file, to the byte",
        lost="the answers that were being written",
    )


@pytest.mark.parametrize("asked", [{"k": 2}, {"method": "expected", "until": 0.05, "max_k": 7}, {"method": "greedy"}])
def test_rows_are_the_raters_ratings_in_any_batch(asked, tmp_path, sized):
    sized("kadid10k", 20)
    root = tmp_path / "data"
    miniatures.kadid10k(root / "kadid10k", references=2)
    for path, size in zip(sorted((root / "kadid10k" / "images").iterdir()), range(28, 128, 5), strict=True):
        with Image.open(path) as picture:
            picture.resize((size, 56)).save(path)
    method = Method[asked.get("method", "mean")]
    config = EvaluateConfig("tiny", **{**asked, "method": method}, data=["kadid10k"], root=str(root), limit=4, seed=3)
    rows = []
    for batch in (6, 192):
        folder = evaluate(replace(config, batch=batch, folder=str(tmp_path / f"{batch}")))
        rows.append(read_evaluation(folder).rows["kadid10k"])
    assert evaluate(replace(config, batch=1, folder=str(folder))) == folder  # the batch decides nothing
    samples = {sample.image_id: sample for sample in read_dataset("kadid10k", root).all()}
    ratings = load_rater("tiny", seed=3, **asked)([samples[row.image_id].image for row in rows[0]])
    for one, other, rating in zip(*rows, ratings, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-4)
        assert one.scores == pytest.approx(rating.scores, abs=1e-4)
        assert (one.status, one.tokens, one.reasoning) == (other.status, other.tokens, other.reasoning)
        assert (one.status, one.tokens, one.reasoning) == (rating.status, rating.tokens, rating.reasoning)
        assert (one.score, one.std) == (pytest.approx(rating.score, abs=1e-4), pytest.approx(rating.std, abs=1e-4))
        assert (one.weights is None) == (one.stds is None) == (method is not Method.expected)
        assert one.passes == len(one.scores) * (2 if method is Method.expected else 1)


def test_check_takes_the_defaults():
    check(EvaluateConfig(model="tiny", data=["bid"]))
