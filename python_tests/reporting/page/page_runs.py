"""Folders of made-up runs, with all that a real one leaves but for its weights."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import yaml
from analyses import arrays_of, facts_of, noise, write_analysis

from python_tests.reporting.made_up import made_up
from robustdml_ext.evaluation.score import area_under_curve
from robustdml_ext.reporting.page import page, read_run, score_runs

STAGES = {"data": 1.0, "attack": 4.0, "forward": 2.0, "backward": 2.0, "update": 0.5, "evaluation": 1.0}
_ENVIRONMENT = {
    "python": "3.11.0", "versions": {"torch": "2.10.0", "robustdml_ext": "0.1"}, "commit": "0123456789abcdef+changes",
    "machine": {"system": "Linux", "architecture": "x86_64", "cores": 2}, "threads": 1,
    "gpu": {"available": False, "reason": "no GPU, or no driver for it", "devices": []},
    "kernels": {"cpu": {"live": True, "simd": "avx2"}, "cuda": {"live": False, "reason": "no nvcc at <build>"}},
}  # fmt: skip


def lines_of(seed: int = 0) -> list[dict[str, Any]]:
    """The curves of a run that was evaluated twice."""
    lines: list[dict[str, Any]] = []
    for step in (10, 20, 30, 40):
        loss = 10 / step + 0.01 * seed
        lines.append({"kind": "train", "step": step, "epoch": step // 20, "loss": loss, "loss/clean": loss / 2})
        if step % 20 == 0:
            for kind, recall in (("test", 0.8), ("seen", 0.95)):
                lines.append({"kind": kind, "step": step, "epoch": step // 20, "recall@1": recall + step / 1000})
    return lines


def write_run(folder: Path, method: str = "at", seed: int = 0, *, ended: bool = True, **fields: Any) -> Path:
    """A run's folder, as far as the run has come."""
    members = 3 if method == "eat" else 0
    result = made_up(method, seed, members, **fields)
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"recipe": result["recipe"]}), encoding="utf-8")
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines_of(seed)))
    if ended:
        result |= {
            "weights": {"chosen": "last", "selected_on": None}, "environment": _ENVIRONMENT, "device": "cpu",
            "precision": "float32", "timing": {"steps": 40, "seconds": STAGES, "judging_seconds": 3.0},
        }  # fmt: skip
        write_result(folder, result)
    return folder


def write_result(folder: Path, result: dict[str, Any]) -> None:
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")


def result_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return found


def analyze(folder: Path, names: list[str] | None = None, *, side: int = 8, channels: int = 1, **sizes: int) -> None:
    """Leave a made-up analysis in a run's folder, of classes of these names."""
    names = names or [f"class {number}" for number in range(5)]
    images, labels = noise(60, side, channels, len(names))
    write_analysis(folder, facts_of(names), arrays_of(images, labels, **sizes))


def page_of(*folders: Path) -> str:
    """The page of runs in these folders."""
    runs = [read_run(folder) for folder in folders]
    return page(runs, score_runs(runs, area_under_curve))


class Parsed(HTMLParser):
    """A page's tags: their ids, names and attributes, text by the section it is in, and images; all tags closed."""

    _VOID = frozenset({"meta", "link", "img", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.sections: dict[str, str] = {}
        self._open: list[tuple[str, str | None]] = []
        self.feed(text)
        self.close()
        assert not self._open, f"left open: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if attributes.get("id"):
            self.ids.append(str(attributes["id"]))
        if tag not in self._VOID:
            self._open.append((tag, attributes.get("id") if tag == "section" else None))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open[-1][0] == tag, f"</{tag}> where {self._open[-3:]} are open"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data
        for _, section in self._open:
            if section:
                self.sections[section] = self.sections.get(section, "") + data

    @property
    def figures(self) -> list[str]:
        return [str(attributes.get("id")) for tag, attributes in self.tags if tag == "figure"]
