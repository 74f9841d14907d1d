"""What a card says of its images: which, how they are split, and what is done to them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StrictBool, model_validator

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=80)]
Positive = Annotated[int, Field(gt=0, strict=True)]
Natural = Annotated[int, Field(ge=0, strict=True)]


class Strict(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Normalise(Strict):
    """Figures for each channel, in pixels of which white is 255: the mean is taken off, the rest divided by std."""

    mean: Annotated[tuple[float, ...], Field(min_length=1)]
    std: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _one_of_each_for_a_channel(self) -> Self:
        if len(self.mean) != len(self.std):
            raise ValueError(f"{len(self.mean)} means and {len(self.std)} deviations; give one of each for a channel")
        if max(self.std) < 1:
            raise ValueError("the figures are of pixels from 0 to 1, and white is 255 here; multiply each by 255")
        return self


class Data(Strict):
    """Which images, how they are split and what is done to them in training."""

    set: Name
    train_per_class: Positive | None = None
    """Labelled training images a class, drawn by the seed. The others are tested where a set has no test images."""
    protocol: Literal["holdout-last", "full-last", "holdout-best", "tune"]
    """How choices are made and which epoch is tested; see docs/add_a_task.md."""
    shift: Natural = 0
    """Each training image is shifted by up to so many pixels in both directions, black moving in."""
    flip: StrictBool = False
    """Each training image is mirrored with probability one half."""
    normalise: Normalise | None = None
    """All images are normalised, after shift and flip; without it pixels go from 0 to 1."""
    cutout: Natural = 0
    """In each training image a square of so many pixels a side is set to 0, last of all, clipped at the border."""
    folder: Annotated[str, Field(min_length=1)] | None = None
    """Of ``folder``: where train/<class>/ and val/<class>/ lie, below the data root or an absolute path. Decides nothing."""
    image_size: Positive | None = None
    """Of ``folder`` and ``imagenet``: images become squares of so many pixels a side."""
    resize: Positive | None = None
    """Of those: an image's shorter side becomes so long before its centre is cut out; by default ``image_size``."""
    crop: Literal["centre", "random-resized"] = "centre"
    """Of those, what is cut out of a training image: the centre, as for testing, or torchvision's RandomResizedCrop."""
    classes: Positive | None = None
    """Of ``folder``: how many classes it has; counted when runs are planned."""
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Of ``folder``: SHA-256 of its images; taken when runs are planned."""
    corrupted: StrictBool = False
    """The network is also tested on the set's corrupted test images, where they are under the data root."""

    def deciding(self) -> dict[str, Any]:
        """What of it goes into a fingerprint: every key but ``folder``, and those that came later only if they are set.

        So results that were published before there were such keys keep their fingerprints.
        """
        content = self.model_dump(mode="json", exclude={"folder"})
        early = ("set", "train_per_class", "protocol", "shift", "flip")
        later = [key for key in content if key not in early and content[key] == type(self).model_fields[key].default]
        return {key: value for key, value in content.items() if key not in later}
