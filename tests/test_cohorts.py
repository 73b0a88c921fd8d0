"""The order of pictures: whole cohorts of one dataset, no repeats in a batch, a function of seed and epoch alone."""

from collections import Counter

import pytest

from vqr1.cohorts import CohortSampler, cohorts_per_epoch


def sampler(sizes=(40, 20), *, images_per_batch=8, cohort_size=4, k=3, **settings):
    dataset_of = [f"set{d}" for d, size in enumerate(sizes) for _ in range(size)]
    made = CohortSampler(
        dataset_of,
        images_per_batch=images_per_batch,
        cohort_size=cohort_size,
        answers_per_image=k,
        **settings,
    )
    return made, dataset_of


def test_each_cohort_is_of_one_dataset_and_no_picture_stands_twice_in_an_epoch():
    made, dataset_of = sampler()
    for epoch in range(5):
        batches = made.batches(epoch)
        seen = [index for batch in batches for index in batch]
        assert len(seen) == len(set(seen))
        for batch in batches:
            for start in range(0, 8, 4):
                assert len({dataset_of[i] for i in batch[start : start + 4]}) == 1


def test_every_picture_is_visited_once_where_sizes_divide():
    made, _ = sampler((40, 24))
    assert sorted(i for batch in made.batches(3) for i in batch) == list(range(64))


def test_leftovers_sit_out_and_change_from_epoch_to_epoch():
    made, _ = sampler((41,), images_per_batch=8)
    left_out = [set(range(41)) - {i for batch in made.batches(e) for i in batch} for e in range(20)]
    assert all(len(out) == 1 for out in left_out)
    assert len({min(out) for out in left_out}) > 5


def test_indices_come_k_times_in_a_row_and_batches_reuse_times():
    made, _ = sampler((16,), k=3, reuse=2)
    stream = list(made)
    assert len(stream) == len(made) == 16 * 3 * 2
    first = made.batches(0)[0]
    once = [index for index in first for _ in range(3)]
    assert stream[:48] == once + once


def test_order_is_a_function_of_seed_and_epoch():
    one, _ = sampler(seed=3)
    other, _ = sampler(seed=3)
    list(one)  # iterating leaves no trace
    one.set_epoch(7)
    other.set_epoch(7)
    assert list(one) == list(other)
    assert one.batches(0) != one.batches(1)
    assert one.batches(0) != sampler(seed=4)[0].batches(0)


def test_order_is_the_same_on_every_machine():
    # A literal: a change of this order would make published seeds irreproducible.
    made, _ = sampler((4, 4), images_per_batch=4, cohort_size=2)
    assert made.batches(0) == [[1, 3, 5, 4], [2, 0, 7, 6]]


def test_mixing_by_size_and_evenly():
    assert cohorts_per_epoch([80, 16], 8) == [10, 2]
    assert cohorts_per_epoch([80, 16], 8, temperature=1e9) == [2, 2]
    halfway = cohorts_per_epoch([80, 16], 8, temperature=2.0)  # in proportion to the roots, 2.236 : 1
    assert halfway == [4, 2]


def test_the_mixture_is_what_batches_hold():
    made, dataset_of = sampler((80, 16), cohort_size=8, images_per_batch=8, temperature=1e9)
    assert Counter(dataset_of[i] for batch in made.batches(0) for i in batch) == {"set0": 16, "set1": 16}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"images_per_batch": 6}, "multiple of 4"),
        ({"sizes": (40, 1)}, "set1 has 1 training pictures"),
        ({"sizes": (4,), "images_per_batch": 8}, "lower trainer.images_per_step"),
    ],
)
def test_what_cannot_be_batched_is_refused_with_the_remedy(settings, message):
    with pytest.raises(ValueError, match=message):
        sampler(**settings)
