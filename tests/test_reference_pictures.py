"""The reference beside the picture: where it is found, how both are asked about, what is refused."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tests.support import miniatures
from tests.support.fake_engine import FakeEngine
from tests.support.miniatures import lines, picture
from tests.test_config import composed
from vqr1.answer import PROMPTS, build_prompt, check_pictures, expects_thinking
from vqr1.answering.answerer import load_answerer
from vqr1.answering.methods import Asked, Method, answer_pictures
from vqr1.answering.model import find_model
from vqr1.answering.settings import AnswerSettings, settle
from vqr1.config import DataConfig, PolicyConfig, ScreenKind, as_dict
from vqr1.data import DATASETS, find_spec, read_dataset
from vqr1.data.pictures import picture_loader
from vqr1.data.reference_pictures import with_references, without_references
from vqr1.data.sample import Sample
from vqr1.demo import datasets
from vqr1.demo.specs import SPECS
from vqr1.errors import UserError
from vqr1.estimate.memory import Passes, Question, Training
from vqr1.estimate.sizes import PUBLISHED
from vqr1.estimate.work import forward, generation
from vqr1.export.asking import client_lines, transformers_lines
from vqr1.export.folder import Asked as ExportAsked
from vqr1.export.folder import export
from vqr1.exported import read_exported
from vqr1.fitting import question
from vqr1.policy.load import TINY, load_policy, load_processor
from vqr1.policy.read_once import OncePerPrompt, read_each_prompt_once, take_bytes
from vqr1.rating.rater import find, load_rater
from vqr1.rollout.engine import vision_tokens
from vqr1.rollout.offline import encode_prompts, text_tokens
from vqr1.rollout.prompt_checks import check_prompt
from vqr1.rollout.vllm_policy import VllmPolicy
from vqr1.rollout_settings import longest_sequence
from vqr1.scoring.sets import read_sets
from vqr1.scoring.settings import EvaluateConfig
from vqr1.screen import Screen
from vqr1.training import run_data
from vqr1.training.run_data import as_dataset, picture_rows, read_data

# Where it is


@pytest.mark.parametrize(
    ("name", "references"),
    [
        ("kadid10k", ["images/I01.png", "images/I02.png", "images/I03.png"]),
        ("csiq", ["src_imgs/1600.png", "src_imgs/aerial_city.png"]),
        ("live", [f"refimgs/ref{i:02}.bmp" for i in range(29)]),
        ("tid2013", ["reference_images/I01.BMP", "reference_images/i25.bmp"]),  # as the release has them
        ("pipal", ["Train_Ref/A0001.bmp", "Train_Ref/A0002.bmp"]),
    ],
)
def test_published_sets_name_the_original_of_each_picture(tmp_path, name, references):
    folder = getattr(miniatures, name)(tmp_path / name)
    samples = read_dataset(name, tmp_path).all()
    for reference in references:
        (folder / reference).parent.mkdir(exist_ok=True)
        (folder / reference).touch()
    found = with_references(DATASETS[name], folder, samples, "data.reference")
    assert {sample.reference for sample in found} == {str(folder / reference) for reference in references}
    assert all(sample.group.casefold() in Path(sample.reference).name.casefold() for sample in found)
    assert [replace(sample, reference=None) for sample in found] == without_references(samples)


@pytest.mark.parametrize("name", ["spaq", "koniq10k", "agiqa3k"])
def test_a_set_without_references_is_refused_by_set_and_picture(tmp_path, name):
    folder = getattr(miniatures, name)(tmp_path / name)
    samples = read_dataset(name, tmp_path).all()
    with pytest.raises(UserError, match=f"data.reference=true: {name} names no reference picture of {name}/.*; take a"):
        with_references(DATASETS[name], folder, samples, "data.reference")


def test_a_reference_that_is_not_there_is_refused_by_file_and_picture(tmp_path):
    folder = miniatures.kadid10k(tmp_path / "kadid10k")
    samples = read_dataset("kadid10k", tmp_path).all()
    picture(folder / "images" / "I01.png")
    with pytest.raises(UserError, match="images/I02.png, the reference of kadid10k/I02_01_01.png, is missing from kad"):
        with_references(DATASETS["kadid10k"], folder, samples, "data.reference")


DECLARED = "form: {}\nlabels: labels\nimages: pictures\nhigher_is_better: true\nrange: [0, 9]\nspread: none\n{}"


def declared(root: Path, form: str, rest: str, *rows: str) -> list[Sample]:
    """The records of a set ``mine`` of two pictures, one from each of two originals."""
    for name in ("pictures/a.png", "pictures/b.png", "originals/o.png", "originals/p.png", "pictures/o.png"):
        picture(root / "mine" / name)
    lines(root / "mine" / "labels", *rows)
    (root / "mine" / "dataset.yaml").write_text(DECLARED.format(form, rest))
    samples = sorted(read_dataset("mine", root).all(), key=lambda sample: sample.image)
    return with_references(find_spec("mine", root), root / "mine", samples, "data.reference")


@pytest.mark.parametrize(
    ("form", "rest", "rows", "folder"),
    [
        (
            "csv",
            "group: image\ncolumns: {image: f, mos: m, reference: r}\nreferences: originals",
            ["f,m,r", "a.png,1,o.png", "b.png,2,p.png"],
            "originals",
        ),
        (
            "csv",
            "group: image\ncolumns: {image: f, mos: m, reference: r}",
            ["f,m,r", "a.png,1,o.png", "b.png,2,a.png"],
            "pictures",
        ),
        (
            "visualquality",
            "group: reference\nfields: [ref, dist, mos]\nreferences: originals",
            ["o.png a.png 1", "p.png b.png 2"],
            "originals",
        ),
        (
            "pyiqa",
            "group: reference\nreferences: originals",
            ["ref_name,dist_name,mos", "o.png,a.png,1", "p.png,b.png,2"],
            "originals",
        ),
    ],
)
def test_a_set_of_ones_own_names_its_references_in_every_form_that_can(tmp_path, form, rest, rows, folder):
    found = declared(tmp_path, form, rest, *rows)
    assert [Path(sample.reference).parent.name for sample in found] == [folder] * 2
    assert [Path(sample.image).name for sample in found] == ["a.png", "b.png"]
    assert found[0].pictures == [str(tmp_path / "mine" / folder / "o.png"), found[0].image]


@pytest.mark.parametrize("empty", ["", "null", "None", "nan"])
def test_a_row_without_a_reference_is_refused_where_it_is_to_be_shown_and_nowhere_else(tmp_path, empty):
    rest = "group: image\ncolumns: {image: f, mos: m, reference: r}\nreferences: originals"
    with pytest.raises(UserError, match="mine names no reference picture of mine/b.png; name it in the row and the co"):
        declared(tmp_path, "csv", rest, "f,m,r", "a.png,1,o.png", f"b.png,2,{empty}")
    assert len(read_dataset("mine", tmp_path).all()) == 2


@pytest.mark.parametrize("name", ["../originals/o.png", "/etc/o.png", "x/../../o.png", "..\\o.png", "C:\\o.png"])
@pytest.mark.parametrize(
    ("form", "rest", "rows"),
    [
        (
            "csv",
            "group: image\ncolumns: {image: f, mos: m, reference: r}",
            ["f,m,r", "a.png,1,o.png", "b.png,2,{}"],
        ),
        (
            "visualquality",
            "group: image\nfields: [mos, dist, ref]\nreferences: originals",
            ["", "1 a.png o.png", "2 b.png {}"],
        ),
        ("pyiqa", "group: image\nreferences: originals", ["ref_name,dist_name,mos", "o.png,a.png,1", "{},b.png,2"]),
    ],
)
def test_a_reference_outside_its_folder_is_refused(tmp_path, form, rest, rows, name):
    with pytest.raises(UserError, match=r"labels, line 3: .* leaves .*mine/.*; give a path below it"):
        declared(tmp_path, form, rest, *(row.format(name) for row in rows))


@pytest.mark.parametrize(
    ("form", "rest"),
    [
        ("csv", "group: image\ncolumns: {image: f, mos: m}\nreferences: originals"),
        ("visualquality", "group: image\nfields: [dist, mos]\nreferences: originals"),
        ("json_lines", "group: image\nreferences: originals"),
    ],
)
def test_a_folder_of_references_that_no_row_names_is_refused(tmp_path, form, rest):
    with pytest.raises(UserError, match="references: a row must name its reference, by columns.reference, ref or ref_"):
        declared(tmp_path, form, rest, "f,m")


def test_the_demonstrations_references_are_the_undistorted_crops_of_their_contents(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "TRAIN_PICTURES", 4)
    monkeypatch.setattr(datasets, "TRAIN_DRAWN", 1)
    monkeypatch.setattr(datasets, "VALIDATION_DRAWN", 0)
    monkeypatch.setattr(datasets, "PHOTOGRAPHS", {"train": (), "validation": (), "test": ()})
    folder, spec = tmp_path / "demo_five", SPECS[0]
    samples = datasets.read_demonstration("demo_five", folder).all()
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    found = with_references(spec, folder, samples, "data.reference")
    assert {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["demo_five"]
    (content,) = datasets.drawn_contents(1, datasets.DEMO_DATASETS["demo_five"].seed)
    windows = np.lib.stride_tricks.sliding_window_view(content.pixels, (datasets.CROP, datasets.CROP, 3))[:, :, 0]
    for sample in found:
        reference, shown = (np.asarray(Image.open(path)) for path in sample.pictures)
        assert (windows[..., 0, 0, :] == reference[0, 0]).all(-1).any()
        places = np.argwhere((windows[..., 0, 0, :] == reference[0, 0]).all(-1))
        assert any(np.array_equal(windows[y, x], reference) for y, x in places)
        assert reference.shape == shown.shape and not np.array_equal(reference, shown)
        assert np.abs(reference.astype(float) - shown).mean() < 60  # the same place
    times = {file: file.stat().st_mtime_ns for file in (folder / "references").iterdir()}
    with_references(spec, folder, samples, "data.reference")
    assert {file: file.stat().st_mtime_ns for file in (folder / "references").iterdir()} == times
    monkeypatch.setattr(datasets, "VERSION", datasets.VERSION + 1)  # drawn anew, and its references with it
    datasets.load_pictures("demo_five", folder)
    assert not (folder / "references").exists()


# What is asked


def test_the_prompt_says_which_picture_is_which_and_asks_for_the_papers_answer():
    text = PROMPTS["reference"]
    assert text.index("first image is the reference") < text.index("second image") < text.index("<think>")
    assert text.endswith(PROMPTS["paper"][PROMPTS["paper"].index("The rating should be") :])
    assert expects_thinking("reference")


@pytest.mark.parametrize(
    ("prompt", "reference", "message"),
    [
        (
            "paper",
            True,
            "prompt paper speaks of one picture, and data.reference=true shows two: set the prompt to refe",
        ),
        ("no_thinking", True, "prompt no_thinking speaks of one picture"),
        ("reference", False, "prompt reference speaks of two pictures: set data.reference=true, or another prompt"),
    ],
)
def test_a_prompt_of_another_number_of_pictures_is_refused(prompt, reference, message):
    with pytest.raises(UserError, match=message):
        check_pictures(prompt, reference)
    with pytest.raises(UserError, match=message):
        composed(f"data.reference={str(reference).lower()}", f"rollout.prompt={prompt}")
    check_pictures(prompt, not reference)
    check_pictures("Compare them. Reply in <answer> tags.", reference)


def test_the_experiment_is_the_demonstration_with_references():
    config, plain = composed("experiment=demo_reference"), composed("experiment=demo")
    assert config.data == replace(plain.data, reference=True)
    assert config.rollout == replace(plain.rollout, prompt=PROMPTS["paper"])
    for group in ("policy", "reward", "evaluation", "trainer", "logger"):
        assert getattr(config, group) == getattr(plain, group)


# Data of a run


def mine(root: Path, **settings) -> tuple[DataConfig, list[Sample]]:
    """A set of nine pictures from three originals."""
    rows = [f"{i}.png,{i},o{i % 3}.png,{'test' if i > 5 else 'train'}" for i in range(9)]
    for name in (*(f"pictures/{i}.png" for i in range(9)), *(f"originals/o{i}.png" for i in range(3))):
        picture(root / "mine" / name)
    lines(root / "mine" / "labels", "f,m,r,p", *rows)
    columns = "group: image\nreferences: originals\ncolumns: {image: f, mos: m, reference: r, part: p}"
    (root / "mine" / "dataset.yaml").write_text(DECLARED.format("csv", columns))
    return DataConfig(root=str(root), train=["mine"], test=["mine"], **settings)


def test_a_run_reads_references_where_they_are_asked_for_alone(tmp_path):
    config = replace(composed(), data=mine(tmp_path))
    load = picture_loader(3136, 200704)
    plain = read_data(config)
    assert all(sample.pictures == [sample.image] for sample in [*plain.train, *plain.test["mine"]])
    rows = as_dataset(plain.train, [], load)[:2]
    assert set(rows) == {"image", "mos", "mos_std", "dataset", "group", "image_id", "prompt"}

    data = read_data(replace(config, data=replace(config.data, reference=True)))
    assert [replace(sample, reference=None) for sample in data.train] == plain.train
    rows = as_dataset(data.train, build_prompt("reference"), load)[[0, 0, 3, 1]]
    assert set(rows) == {"images", "mos", "mos_std", "dataset", "group", "image_id", "prompt"}
    shown = [[image.tobytes() for image in pair] for pair in rows["images"]]
    files = [[f"originals/o{i % 3}.png", f"pictures/{i}.png"] for i in (0, 0, 3, 1)]
    assert shown == [[load(str(tmp_path / "mine" / file)).tobytes() for file in pair] for pair in files]
    assert rows["images"][0][1] is rows["images"][1][1] and rows["images"][0][0] is rows["images"][2][0]


def test_references_are_opened_before_the_first_step_and_are_part_of_what_a_run_is(tmp_path):
    data = replace(composed(), data=mine(tmp_path, reference=True))
    run, load = read_data(data), picture_loader(3136, 200704)
    screen = Screen(ScreenKind.quiet, True)
    run_data.check_pictures(run, load, screen)
    rows = {row["image_id"]: row for row in picture_rows(run, load)}
    assert rows["mine/0.png"]["reference"] == rows["mine/3.png"]["reference"] != rows["mine/1.png"]["reference"]
    (tmp_path / "mine" / "originals" / "o2.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"o2.png: not a readable picture"):
        run_data.check_pictures(run, picture_loader(3136, 200704), screen)


# Two pictures in a prompt


@pytest.fixture(scope="module")
def policy(policy_folder):
    settings = PolicyConfig(path=str(policy_folder), **TINY)
    return load_policy(settings).eval(), load_processor(settings)


def noise(*sizes):
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


def pairs(order):
    """Examples of three pictures of other sizes, two of them of one reference."""
    first, second, *shown = noise((112, 112), (84, 56), (56, 84), (112, 56), (112, 112))
    references = [first, second, first]
    prompt = build_prompt("reference")
    return [{"images": [references[i], shown[i]], "prompt": prompt, "image_id": str(i)} for i in order]


@pytest.mark.parametrize("padding", [True, False])
def test_two_pictures_are_read_as_qwens_processor_reads_them_and_each_is_cut_once(policy, padding):
    plain = policy[1]
    once = OncePerPrompt.of(plain)
    examples = pairs((0, 0, 1, 2, 2))
    expected, found = (encode_prompts(each, examples, padding) for each in (plain, once))
    for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
        assert np.array_equal(found[name], expected[name]) if padding else found[name] == expected[name]
    grid = torch.as_tensor(expected["image_grid_thw"])
    assert torch.equal(found["image_grid_thw"], grid) and len(grid) == 10
    of_prompts = grid.view(5, 2, 3)[[0, 2, 3]].prod(-1)
    assert len(found["pixel_values"]) == of_prompts.sum()
    assert found["picture"].tolist() == [0, 0, 1, 2, 2]
    patches = found["pixel_values"].split(of_prompts.flatten().tolist())
    assert torch.equal(patches[0], patches[4]) and not torch.equal(patches[0], patches[1])  # the first's reference


def test_a_batch_whose_prompts_show_different_numbers_is_read_row_by_row(policy):
    once = OncePerPrompt.of(policy[1])
    examples = [pairs((0,))[0], {"image": noise((56, 56))[0], "prompt": build_prompt("paper")}]
    expected, found = (encode_prompts(each, examples) for each in (policy[1], once))
    assert "picture" not in found and torch.equal(found["input_ids"], expected["input_ids"])


@pytest.mark.parametrize("order", [(0, 0, 1, 1, 2), (2, 1, 0), (1, 1, 1, 1)])
def test_answers_beside_references_are_those_of_plain_generation(policy, order):
    plain, processor = policy
    ours, once = copy.deepcopy(plain), OncePerPrompt.of(processor)
    take_bytes(ours.model.visual, once.image_processor)
    read_each_prompt_once(ours)
    found = []
    for model, inputs in ((plain, encode_prompts(processor, pairs(order))), (ours, encode_prompts(once, pairs(order)))):
        torch.manual_seed(3)
        found.append(model.generate(**inputs, max_new_tokens=8, do_sample=True, top_k=0))
    assert torch.equal(*found)


def test_an_engine_is_asked_with_both_pictures_in_order(policy, policy_folder):
    model, processor = policy
    engine = FakeEngine(policy_folder, processor, pictures=2)
    stop = [processor.tokenizer.eos_token_id]
    asked = VllmPolicy(engine, processor, stop, max_tokens=6, temperature=0.0)
    examples = pairs((0, 0, 1))
    answers = asked.draw(examples)
    assert [(question.pictures, question.k) for question in engine.asked[0]] == [
        (examples[0]["images"], 2),
        (examples[2]["images"], 1),
    ]
    inputs = encode_prompts(processor, [examples[0]])
    never = list(vision_tokens(processor.tokenizer))
    made = model.generate(**inputs, max_new_tokens=6, do_sample=False, eos_token_id=stop, suppress_tokens=never)
    assert answers[0] == made[0, inputs["input_ids"].shape[1] :].tolist()


class OnePlace:
    """A processor whose chat template knows one picture."""

    image_token = "<|image_pad|>"

    def __init__(self, processor):
        self.tokenizer = processor.tokenizer

    def apply_chat_template(self, prompts, **_):
        return [f"{self.image_token}{prompts[0][0]['content'][-1]['text']}"]


def test_a_template_without_a_place_for_each_picture_is_refused(policy):
    processor = policy[1]
    check_prompt(processor, "reference", pictures=2)
    with pytest.raises(UserError, match=r"makes 2 places for the picture .* in place of one"):
        check_two_as_one(processor)
    with pytest.raises(UserError, match=r"makes 1 places for 2 pictures .* in place of 2; look at chat_template.jinja"):
        check_prompt(OnePlace(processor), "reference", pictures=2)


def check_two_as_one(processor):
    class Twice(OnePlace):
        def apply_chat_template(self, prompts, **_):
            return [f"{self.image_token} {self.image_token}"]

    check_prompt(Twice(processor), "paper")


# Sizes


def test_tokens_of_both_pictures_are_counted(policy):
    model, processor = policy
    text = text_tokens(processor, "reference", pictures=2)
    ids = encode_prompts(processor, pairs((0,)))["input_ids"]
    assert ids.shape[1] == text + (112 * 112 + 56 * 84) // 28**2
    assert longest_sequence(text, 200704, 28, 48, 2) == text + 2 * 256 + 48
    assert (
        text_tokens(processor, "reference", pictures=2) + 512 + 48
        < model.config.get_text_config().max_position_embeddings
    )


def test_memory_and_operations_count_both_pictures():
    sizes = PUBLISHED["3B"]
    one, two = (Question(100, 1008, 100, 6, pictures=n) for n in (1, 2))
    assert two.prompt(sizes) - one.prompt(sizes) == 252
    assert Passes(two, 12).patches(shared=True) == 2 * Passes(one, 12).patches(shared=True) == 4 * 1008
    alone = Question(100 + 252, 1008, 100, 6)  # as many tokens, and one picture to encode
    how = Training(sizes, itemsize=2)
    more = forward(how, Passes(two, 6)).total - forward(how, Passes(alone, 6)).total
    assert more == pytest.approx(generation(sizes, two, 6, 6) - generation(sizes, alone, 6, 6))
    assert more > 0
    config = composed("experiment=demo")
    plain = question(config, sizes)
    shown = question(replace(config, data=replace(config.data, reference=True)), sizes)
    assert (plain.pictures, shown.pictures, shown.patches) == (1, 2, plain.patches)


# Scoring


def run_of(folder: Path, policy_folder: Path) -> Path:
    """A run folder as ``vqr1 train`` leaves it."""
    config = composed("experiment=demo_reference", "rollout.prompt=reference", f"policy.path={policy_folder}")
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(as_dict(config)))
    shutil.copytree(policy_folder, folder / "best")
    return folder


def test_a_run_is_scored_as_it_was_trained_and_shown_alone_it_is_refused(tmp_path, policy_folder):
    run = run_of(tmp_path / "run", policy_folder)
    model = find_model(AnswerSettings(model=str(run)))
    assert (model.reference, model.prompt, model.pictures) == (True, "reference", 2)
    assert not find_model(AnswerSettings(model=str(run), reference=False)).reference
    with pytest.raises(
        UserError, match="run was trained beside references: give the undistorted picture of those that"
    ):
        find(AnswerSettings(model=str(run)), None)


def test_sets_are_scored_beside_their_references(tmp_path):
    mine(tmp_path)
    (alone,), (beside,) = (read_sets(["mine"], tmp_path, [], reference=each) for each in (False, True))
    assert alone.facts == beside.facts
    assert [len(sample.pictures) for sample in (*alone.samples, *beside.samples)] == [1] * 9 + [2] * 9
    miniatures.spaq(tmp_path / "spaq")
    with pytest.raises(UserError, match="^reference=true: spaq names no reference picture of spaq/00001.jpg"):
        read_sets(["spaq"], tmp_path, [], reference=True)


def test_an_answer_depends_on_picture_and_reference(policy, policy_folder):
    config = settle(
        EvaluateConfig(model=str(policy_folder), prompt="reference", reference=True, max_tokens=8, k=2), gpus=0
    )
    answerer = load_answerer(config, find_model(config))
    first, second, shown = noise((112, 112), (84, 84), (56, 84))
    asked = Asked(Method.mean, k=2, seed=0)
    a, b, again = answer_pictures(answerer, [[first, shown], [second, shown], [first, shown]], asked)
    assert a.texts == again.texts != b.texts
    (alone,) = answer_pictures(answerer, [[first, shown]], asked)
    assert alone.texts == a.texts


def test_an_exported_folder_is_asked_with_a_reference_and_says_how(tmp_path, policy_folder):
    run = run_of(tmp_path / "run", policy_folder)
    export(ExportAsked(str(run), tmp_path / "out", max_tokens=6, check=False))
    exported = read_exported(tmp_path / "out")
    assert exported.reference and exported.prompt == PROMPTS["reference"]
    readme = (tmp_path / "out" / "README.md").read_text()
    for line in (
        "    vqr1 rate photo.jpg --model FOLDER --reference original.jpg",
        'reference = ImageOps.exif_transpose(Image.open("original.jpg")).convert("RGB")',
        'message["content"].append({"type": "text", "text": prompt})',
        'content": [reference, picture, {"type": "text", "text": prompt}]',
        """--limit-mm-per-prompt '{"image": 2, "video": 0}'""",
    ):
        assert line in readme, line
    reference, *shown = noise((112, 112), (56, 84), (112, 56))
    with pytest.raises(UserError, match="out was trained beside references"):
        load_rater(tmp_path / "out")
    rater = load_rater(tmp_path / "out", reference=reference, max_tokens=6)
    assert rater.metric_mode == "FR"
    ratings = rater(shown)
    expected = answer_pictures(rater._answerer, [[reference, each] for each in shown], Asked(Method.greedy, 1, 0))
    assert [rating.reasoning for rating in ratings] == [each.reasoning for each in expected]
    other = load_rater(tmp_path / "out", reference=shown[0], max_tokens=6)(shown)
    assert [rating.reasoning for rating in other] != [rating.reasoning for rating in ratings]
    with pytest.raises(UserError, match="prompt paper speaks of one picture, and reference=true shows two"):
        load_rater("tiny", reference=reference)


def test_the_lines_that_ask_with_a_reference_are_python_and_without_one_as_ever():
    alone, both = transformers_lines("p"), transformers_lines("p", original='"o.png"')
    for asked in (both, client_lines("p", 9, reference=True)):
        compile(asked, "card", "exec")
    assert "reference" not in alone + client_lines("p", 9)
    assert set(alone.splitlines()) - set(both.splitlines()) == {
        'message = {"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": prompt}]}'
    }
