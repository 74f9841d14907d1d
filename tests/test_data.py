"""Digits, their seeded split, and batches that are pure functions of seed, epoch and step."""

from collections import Counter

import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from scipy.stats import chi2_contingency
from torch.nn import functional as F
from torchvision import transforms

from npasbench import data as sets
from npasbench.card import Data, Normalise
from npasbench.data import augment
from npasbench.data.batches import Batches
from npasbench.data.dataset import DataSet
from npasbench.data.normalise import normalised
from npasbench.errors import UnknownName, UsageError

CPU = torch.device("cpu")
DIGITS15 = Data(set="digits", train_per_class=15, protocol="full-last", shift=1)


def changed(**settings: object) -> Data:
    return DIGITS15.model_copy(update=settings)


def digits(seed: int = 0) -> DataSet:
    return sets.load(DIGITS15, seed=seed)


def batches(seed: int = 0, data: Data = DIGITS15, batch_size: int = 50) -> Batches:
    return Batches(digits(), data, batch_size, seed, CPU)


def rows(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def test_a_split_has_fifteen_images_of_each_class_and_tests_on_the_other_1647():
    drawn = digits()
    assert drawn.train_labels.bincount().tolist() == [15] * 10
    assert drawn.train_inputs.shape == (150, 1, 8, 8)
    assert drawn.test_inputs.shape == (1647, 1, 8, 8)
    assert len(drawn.test_labels) == 1647


def test_training_and_test_images_are_disjoint_and_together_all():
    drawn = digits()
    train, test = rows(drawn.train_inputs), rows(drawn.test_inputs)
    assert not train & test
    assert len(train | test) == 1797


def test_the_seed_decides_the_split():
    assert torch.equal(digits(3).train_inputs, digits(3).train_inputs)
    assert not torch.equal(digits(3).train_inputs, digits(4).train_inputs)


def test_labels_belong_to_their_images():
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    truth = {(pixel / 16).astype("float32").tobytes(): label for pixel, label in zip(pixels, labels, strict=True)}
    drawn = digits()
    assert [truth[image.numpy().tobytes()] for image in drawn.train_inputs] == drawn.train_labels.tolist()


def test_pixels_lie_between_zero_and_one():
    drawn = digits()
    assert (drawn.train_inputs.dtype, drawn.train_labels.dtype) == (torch.float32, torch.int64)
    assert (float(drawn.test_inputs.min()), float(drawn.test_inputs.max())) == (0, 1)


def test_writing_into_a_data_set_changes_nobody_elses():
    digits().train_inputs.zero_()
    assert digits().train_inputs.any()


def test_a_description_agrees_with_the_set():
    assert sets.describe(DIGITS15) == (digits().classes, digits().input_shape)


def test_test_inputs_come_in_order():
    drawn = digits()
    assert torch.equal(torch.cat(list(drawn.test(500))), drawn.test_inputs)


def test_an_unknown_set_is_answered_with_the_nearest():
    with pytest.raises(UnknownName, match="Did you mean 'digits'"):
        sets.describe(changed(set="digit"))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"train_per_class": 174}, "class '8' of the digits has only 174 images, one of which is left to test"),
        ({"train_per_class": None}, "set train_per_class"),
        ({"shift": 8}, "at most 7"),
        ({"cutout": 9}, "at most 8"),
        ({"normalise": Normalise(mean=(1, 2, 3), std=(1, 2, 3))}, "has 3 means, but 'digits' has channels: 1"),
    ],
)
def test_an_impossible_split_is_a_sentence_before_a_run_begins(wrong, sentence):
    for look in (sets.describe, sets.check, lambda data: sets.load(data, seed=0)):
        with pytest.raises(UsageError, match=sentence):
            look(changed(**wrong))


def test_the_smallest_class_of_the_digits_keeps_one_image_to_test():
    data = sets.load(changed(train_per_class=173), seed=0)
    assert data.test_labels.bincount().argmin() == 8
    assert data.test_labels.bincount().min() == 1


@pytest.mark.parametrize("given", [True, "15", 15.0])
def test_what_is_no_whole_number_is_not_taken_for_one(given):
    for key in ("train_per_class", "shift", "cutout", "image_size"):
        with pytest.raises(ValidationError, match="valid integer"):
            Data.model_validate({"set": "digits", "protocol": "full-last", key: given})


def test_an_epoch_holds_every_example_once():
    indices = torch.cat([batch.indices for batch in batches().epoch(0)])
    assert sorted(indices.tolist()) == list(range(150))


def test_a_batch_holds_the_examples_that_it_names():
    drawn = digits()
    for batch in batches(data=changed(shift=0)).epoch(0):
        assert torch.equal(batch.inputs, drawn.train_inputs[batch.indices])
        assert torch.equal(batch.labels, drawn.train_labels[batch.indices])


def test_order_and_augmentation_are_pure_functions_of_seed_and_epoch():
    first, second = (list(batches(data=changed(flip=True)).epoch(5)) for _ in range(2))
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("other", [{"seed": 1}, {"epoch": 1}])
def test_another_seed_or_epoch_has_another_order(other):
    epoch = other.get("epoch", 0)
    order = next(batches(other.get("seed", 0)).epoch(epoch)).indices
    assert not torch.equal(order, next(batches().epoch(0)).indices)


def test_augmentation_does_not_move_the_order():
    plain = [batch.indices for batch in batches(data=changed(shift=0)).epoch(2)]
    augmented = [batch.indices for batch in batches(data=changed(shift=2, flip=True)).epoch(2)]
    assert all(torch.equal(a, b) for a, b in zip(plain, augmented, strict=True))


@pytest.mark.parametrize("start", [0, 1, 2, 3])
def test_going_on_within_an_epoch_gives_the_batches_that_were_left(start):
    torch.rand(start)  # the global generator has no say
    whole, rest = list(batches().epoch(7)), list(batches().epoch(7, start_step=start))
    assert len(rest) == len(whole) - start
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(whole[start:], rest, strict=True))


@pytest.mark.parametrize(
    ("batch_size", "sizes"),
    [(50, [50, 50, 50]), (64, [64, 64, 22]), (149, [150]), (200, [150]), (1, [1] * 150)],
)
def test_a_single_example_left_over_joins_the_batch_before(batch_size, sizes):
    given = batches(batch_size=batch_size)
    assert [len(batch.labels) for batch in given.epoch(0)] == sizes
    assert given.steps_per_epoch == len(sizes)


def test_a_batch_size_below_one_is_a_sentence():
    with pytest.raises(UsageError, match="at least one"):
        batches(batch_size=0)


@pytest.mark.parametrize("shape", [(9, 1, 8, 8), (6, 3, 7, 5)])
def test_shifting_equals_shifting_image_by_image(shape):
    images, most = torch.rand(shape), 2
    offsets = augment.draw_offsets(len(images), most, torch.Generator().manual_seed(0))
    height, width = shape[2:]
    expected = torch.zeros(shape)
    for image, (down, right), out in zip(images, offsets.tolist(), expected, strict=True):
        moved = F.pad(image, (max(right, 0), max(-right, 0), max(down, 0), max(-down, 0)))
        out.copy_(moved[:, max(-down, 0) :, max(-right, 0) :][:, :height, :width])
    assert torch.equal(augment.shift(images, offsets, most), expected)


def test_a_shift_down_and_right_moves_zeros_in_above_and_left():
    shifted = augment.shift(torch.ones(1, 1, 3, 3), torch.tensor([[1, 1]]), 1)
    assert shifted[0, 0].tolist() == [[0, 0, 0], [0, 1, 1], [0, 1, 1]]


def test_every_offset_is_drawn():
    offsets = augment.draw_offsets(500, 1, torch.Generator().manual_seed(0))
    assert {tuple(pair) for pair in offsets.tolist()} == {(d, r) for d in (-1, 0, 1) for r in (-1, 0, 1)}


def test_mirroring_swaps_left_and_right_of_the_named_images_only():
    images = torch.rand(2, 1, 3, 4)
    mirrored = augment.mirror(images, torch.tensor([True, False]))
    assert torch.equal(mirrored[0], images[0].flip(2))
    assert torch.equal(mirrored[1], images[1])


def test_images_may_be_normalised_where_they_lie():
    by, images = Normalise(mean=(120.0, 110.0, 100.0), std=(60.0, 61.0, 62.0)), torch.rand(2, 3, 4, 4)
    expected = normalised(images, by)
    assert normalised(images, by, out=images) is images
    assert torch.equal(images, expected)


def test_black_moves_in_where_images_are_normalised():
    fill = torch.tensor([-1.0, 2.0])
    shifted = augment.shift(torch.zeros(1, 2, 2, 2), torch.tensor([[0, -1]]), 1, fill)
    assert shifted[0].tolist() == [[[0, -1], [0, -1]], [[0, 2], [0, 2]]]


def test_shift_and_flip_are_torchvisions_crop_and_flip_bit_by_bit_and_in_distribution():
    count, by = 5000, Normalise(mean=(129.3, 124.1, 112.4), std=(68.2, 65.4, 70.4))
    pixels = torch.randint(256, (6, 6, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    steps = [transforms.RandomCrop(6, padding=2), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    theirs = transforms.Compose(
        [*steps, transforms.Normalize([m / 255 for m in by.mean], [s / 255 for s in by.std])],
    )
    torch.manual_seed(0)
    expected = Counter(theirs(Image.fromarray(pixels.numpy())).numpy().tobytes() for _ in range(count))
    data = Data(set="digits", protocol="full-last", shift=2, flip=True, normalise=by)
    image = normalised(pixels.permute(2, 0, 1).float().div(255).expand(count, 3, 6, 6), by)
    labels = torch.zeros(count, dtype=torch.int64)
    (batch,) = Batches(DataSet("one", image, labels, image, labels, 1), data, count, 0, CPU).epoch(0)
    given = Counter(image.numpy().tobytes() for image in batch.inputs)
    assert set(given) == set(expected)
    assert len(given) == 5 * 5 * 2
    assert chi2_contingency([[both[one] for one in given] for both in (given, expected)]).pvalue > 0.01


def test_half_of_all_images_are_mirrored():
    count = 20_000
    image, labels = torch.tensor([0.0, 1.0]).expand(count, 1, 1, 2), torch.zeros(count, dtype=torch.int64)
    data = Data(set="digits", protocol="full-last", flip=True)
    (batch,) = Batches(DataSet("one", image, labels, image, labels, 1), data, count, 0, CPU).epoch(0)
    mirrored = int((batch.inputs[:, 0, 0, 0] == 1).sum())
    assert abs(mirrored - count / 2) < 4 * (count / 4) ** 0.5


@pytest.mark.parametrize("size", [1, 2, 3, 16])
def test_cutting_out_equals_cutting_out_image_by_image(size):
    images = torch.rand(500, 2, 7, 5)
    centres = augment.draw_centres(500, 7, 5, torch.Generator().manual_seed(0))
    assert {tuple(centre) for centre in centres.tolist()} == {(row, column) for row in range(7) for column in range(5)}
    expected = images.clone()
    for image, (row, column) in zip(expected, centres.tolist(), strict=True):
        top, left = row - size // 2, column - size // 2
        image[:, max(top, 0) : max(top + size, 0), max(left, 0) : max(left + size, 0)] = 0
    assert torch.equal(augment.cut_out(images, centres, size), expected)


def test_a_cutout_moves_neither_shift_nor_flip():
    plain, holed = (next(batches(data=changed(flip=True, cutout=size)).epoch(3)).inputs for size in (0, 4))
    assert ((holed == plain) | (holed == 0)).all()
    assert not torch.equal(holed, plain)
