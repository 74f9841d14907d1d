"""ImageNet in torchvision's layout: read as torchvision's own class reads it, told in a sentence where it is not whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import image_files
import pytest
import torch
from torchvision import transforms
from torchvision.datasets import ImageNet

from npasbench import data as sets
from npasbench.card import Data, Entry, Normalise
from npasbench.cluster.needs import asked_for
from npasbench.cluster.profile import Profile
from npasbench.data import imagenet
from npasbench.data.batches import Batches
from npasbench.data.files import Files
from npasbench.errors import DataError, UsageError
from npasbench.plan import plan_entry
from npasbench.registry import Registry

CPU = torch.device("cpu")
WNIDS = ("n01440764", "n01443537", "n02130308", "n15075141")
FIGURES = Normalise(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
GIVEN = Data(
    set="imagenet",
    protocol="full-last",
    image_size=24,
    resize=32,
    crop="random-resized",
    flip=True,
    normalise=FIGURES,
)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An ImageNet of four classes is taken for whole."""
    monkeypatch.setattr(imagenet, "CLASSES", len(WNIDS))
    monkeypatch.setattr(imagenet, "COUNTS", (5 * len(WNIDS), 2 * len(WNIDS)))
    yield
    imagenet._listed.cache_clear()


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The data root: odd sizes, some images grey and some CMYK, as there are in ImageNet."""
    folder = image_files.write(tmp_path / "imagenet", a_class=3, classes=WNIDS)
    for wnid in WNIDS:
        for kind in ("grey.jpg", "cmyk.jpg"):
            made = image_files.write_kind(folder / "train" / wnid, kind)
            made.rename(made.with_suffix(".JPEG"))
    image_files.write_meta(folder)
    return tmp_path


def test_it_is_read_as_torchvision_reads_it(here: Path):
    data = sets.load(GIVEN, seed=0, root=here)
    normalise = transforms.Normalize([m / 255 for m in FIGURES.mean], [s / 255 for s in FIGURES.std])
    how = transforms.Compose([transforms.Resize(32), transforms.CenterCrop(24), transforms.ToTensor(), normalise])
    theirs = ImageNet(here / "imagenet", "val", transform=how)
    assert torch.equal(torch.stack([image for image, _ in theirs]), torch.cat(list(data.test(3))))
    assert theirs.targets == data.test_labels.tolist()
    trained = ImageNet(here / "imagenet", "train", transform=how)
    assert torch.equal(torch.stack([image for image, _ in trained]), data.some_to_train(100))
    assert trained.targets == data.train_labels.tolist()
    assert isinstance(data.train_inputs, Files)
    assert [data.train_inputs.path(index) for index in range(20)] == [path for path, _ in trained.imgs]


def test_its_batches_are_random_crops_of_every_training_image(here: Path):
    data = sets.load(GIVEN, seed=0, root=here)
    batches = Batches(data, GIVEN, 8, 1, CPU)
    assert [len(batch.labels) for batch in batches.epoch(0)] == [8, 8, 4]
    seen = torch.cat([batch.indices for batch in batches.epoch(0)])
    assert sorted(seen.tolist()) == list(range(20))
    assert next(batches.epoch(0)).inputs.shape == (8, 3, 24, 24)
    few = GIVEN.model_copy(update={"train_per_class": 2})
    assert sets.load(few, seed=0, root=here).train_labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_more_images_of_a_class_than_it_has_are_refused_without_it(tmp_path: Path):
    sets.describe(GIVEN.model_copy(update={"train_per_class": 732}), tmp_path)
    with pytest.raises(UsageError, match="train_per_class is 733, but ImageNet's smallest classes have only 732"):
        sets.describe(GIVEN.model_copy(update={"train_per_class": 733}), tmp_path)


def test_its_classes_are_known_without_it(tmp_path: Path):
    assert sets.describe(GIVEN, tmp_path / "nowhere") == (1000, (3, 24, 24))


@pytest.mark.parametrize("where", ["imagenet", "."])
def test_it_may_lie_in_the_data_root_itself_and_without_torchvisions_file(where: str, here: Path, tmp_path: Path):
    (here / "imagenet" / "meta.bin").unlink()
    root = here if where == "imagenet" else here / "imagenet"
    sets.check(GIVEN, root)
    assert len(sets.load(GIVEN, seed=0, root=root).test_labels) == 8


def test_where_it_is_not_the_sentence_says_what_is_expected_and_how_to_get_it(tmp_path: Path):
    with pytest.raises(DataError) as caught:
        sets.check(GIVEN, tmp_path)
    said = str(caught.value)
    assert f"There is no ImageNet in {tmp_path}: expected are {tmp_path}/imagenet/train/<wnid>/" in said
    assert "train/ and val/ are not there" in said
    assert "--data-root or NPASBENCH_DATA" in said
    assert "put ILSVRC2012_devkit_t12.tar.gz, ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar in" in said
    line = said.partition('python -c "')[2].rstrip('"')
    compile(line, "what the sentence says", "exec")
    assert f"ImageNet('{tmp_path}/imagenet', part)" in line
    (tmp_path / "imagenet").mkdir()
    for file in imagenet.ARCHIVES:
        (tmp_path / "imagenet" / file).touch()
    with pytest.raises(DataError, match="or unpack ILSVRC2012_devkit_t12"):
        sets.check(GIVEN, tmp_path)


def test_what_is_not_whole_is_told(here: Path, monkeypatch: pytest.MonkeyPatch):
    folder = here / "imagenet"
    (folder / "val" / WNIDS[0] / f"{WNIDS[0]}_000.JPEG").unlink()
    with pytest.raises(DataError, match=r"imagenet/val holds 7 images; ImageNet has 8\. Remove the folder and unpack"):
        sets.load(GIVEN, seed=0, root=here)
    for part in ("train", "val"):
        (folder / part / WNIDS[1]).rename(folder / part / "cats")
    with pytest.raises(DataError, match=r"imagenet/train/cats is no class of .*meta\.bin"):
        sets.check(GIVEN, here)
    monkeypatch.setattr(imagenet, "CLASSES", 1000)
    with pytest.raises(DataError, match=rf"have 4 class folders; ImageNet has 1,000.*{WNIDS[1]} is missing\. Unpack"):
        sets.check(GIVEN, here)
    monkeypatch.setattr(imagenet, "CLASSES", 4)
    (folder / "meta.bin").write_bytes(b"no meta")
    with pytest.raises(DataError, match=r"meta\.bin cannot be read: .*Remove it"):
        sets.check(GIVEN, here)


def test_a_damaged_image_is_named(here: Path):
    victim = here / "imagenet" / "train" / WNIDS[2] / "cmyk.JPEG"
    victim.write_bytes(victim.read_bytes()[:400])
    data = sets.load(GIVEN, seed=0, root=here)
    with pytest.raises(DataError, match=f"{WNIDS[2]}/cmyk.JPEG cannot be read as an image"):
        list(Batches(data, GIVEN, 8, 1, CPU).epoch(0))


def test_a_job_asks_for_cores_that_decode_where_a_gpu_trains():
    card = Registry().card("digits15-wrn-10-1")
    needs = card.needs.model_copy(update={"gpus": 1})
    (digits, *_) = plan_entry("digits15-wrn-10-1", Entry(label="dense", method="dense"), Registry())
    for data, gpus, cores in ((card.data, 1, 1), (GIVEN, 1, 9), (GIVEN, 0, 1)):
        update = {"data": data, "needs": needs.model_copy(update={"gpus": gpus})}
        spec = digits.model_copy(update={"task": card.model_copy(update=update)})
        assert asked_for(spec, Profile(), 1).cpus == cores
    four = digits.model_copy(update={"task": card.model_copy(update={"data": GIVEN, "needs": needs})})
    assert asked_for(four, Profile(), 4).cpus == 36
    assert asked_for(four, Profile(cpus=5), 4).cpus == 5
