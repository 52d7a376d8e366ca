from __future__ import annotations

import torch

from robustdml_ext import data


def test_digits() -> None:
    splits = data.load("digits")
    assert (len(splits.train), len(splits.test)) == (901, 896)
    assert (splits.channels, splits.image_size) == (1, 8)
    assert splits.train.class_names == list("01234") and splits.test.class_names == list("56789")
    images, labels = splits.train.batch(range(901))
    assert images.shape == (901, 1, 8, 8) and images.dtype == torch.float32
    assert images.min() == 0 and images.max() == 1 and labels.unique().tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(images * 16, (images * 16).round())
    assert torch.equal(splits.train[3], images[3]) and torch.equal(splits.train[-1], images[-1])


def test_digits_match_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    test = data.load("digits").test
    expected = torch.from_numpy(bunch.images[bunch.target >= 5] / 16).float()
    assert torch.equal(test.batch(range(len(test)))[0][:, 0], expected)
    assert (test.labels.numpy() + 5).tolist() == bunch.target[bunch.target >= 5].tolist()


def test_digits_larger_and_in_color() -> None:
    splits = data.load("digits", image_size=16, channels=3)
    image = splits.train[0]
    assert (
        image.shape == (3, 16, 16)
        and torch.equal(image[0], image[2])
        and (splits.channels, splits.image_size) == (3, 16)
    )
