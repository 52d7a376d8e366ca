"""An x-vector learns to tell voices apart that it never heard, from files on disk to the equal error rate."""

from __future__ import annotations

from pathlib import Path

import torch

from python_tests.data.sounds import VIDEOS, write_speakers
from robustdml_ext import data
from robustdml_ext.evaluation.verification import eer
from robustdml_ext.losses import MultiSimilarityLoss
from robustdml_ext.models import Embedder, build_embedder

SPEAKERS, TEST = list(range(10_001, 10_021)), [10_270, 10_275, 10_280, 10_285, 10_290, 10_309]


def equal_error_rate(model: Embedder, splits: data.DataSplits) -> float:
    """By the cosines of the official trials' embeddings."""
    model.eval()
    with torch.no_grad():
        embeddings = torch.cat([model(sound) for sound, _ in data.EvaluationBatches(splits.test, 16)])
    trials = splits.trials["veri_test2"]
    scores = (embeddings[trials.pairs[:, 0]] * embeddings[trials.pairs[:, 1]]).sum(1)
    return eer(scores, trials.same)


def test_training_lowers_the_equal_error_rate(tmp_path: Path) -> None:
    write_speakers(tmp_path / "wav", SPEAKERS, 6, (0.8, 1.2))
    write_speakers(tmp_path / "wav", TEST, 6, (0.8, 1.2))
    names = [f"id{number}/{video}/{i:05d}.wav" for number in TEST for video in VIDEOS for i in (1, 2, 3)]
    (tmp_path / "veri_test2.txt").write_text(
        "".join(f"{int(a[:7] == b[:7])} {a} {b}\n" for row, a in enumerate(names) for b in names[row + 1 :])
    )
    splits = data.load("voxceleb", tmp_path, sound=data.SoundOptions(frames=50, test_frames=80), cache="memory")
    torch.manual_seed(4)
    model = build_embedder("xvector", channels=1, embedding_dim=16, widths=(32, 32, 32, 32, 64, 32, 32))
    before = equal_error_rate(model, splits)
    loss, optimizer = MultiSimilarityLoss(), torch.optim.Adam(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 24)
    sampler, batches = data.PKSampler(splits.train.labels, 24, 4, seed=0), data.EpochLoader(splits.train, seed=0)
    for epoch in range(24):
        model.train()
        for sound, labels in batches.epoch(sampler.epoch(epoch), epoch):
            optimizer.zero_grad()
            loss(model(sound), labels).backward()
            optimizer.step()
        schedule.step()
    after = equal_error_rate(model, splits)
    assert 0.2 < before < 0.5 and after < 0.6 * before, (before, after)
