"""The tools of the command line, beside training. Each is a module of its own, imported when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from robustdml_ext.tools.terminal import console
from robustdml_ext.tools.tool import Tool, Train

__all__ = ["TOOLS", "Tool", "console", "run_tool"]

_GOES_ON = "The same command goes on."

TOOLS: dict[str, Tool] = {
    "ablate": Tool(
        "ablate",
        "A method with each of an option's values and several seeds, in one table that the same command goes on.",
        _GOES_ON,
    ),
    "table": Tool(
        "table",
        "The recipes of a paper's table, several seeds each: the table with ours, which the same command goes on.",
        _GOES_ON,
    ),
    "evaluate": Tool(
        "evaluate",
        "Judge any model: clean, corrupted, and under every attack; a checkpoint, torchvision's, or your own.",
        "Nothing was written.",
    ),
    "analyze": Tool(
        "analyze", "What training made of the embeddings: norms compared, a map, what queries find clean and attacked."
    ),
    "report": Tool(
        "report", "One HTML page of a run, or of several side by side: figures, curves, maps, retrieval sheets."
    ),
    "enroll": Tool(
        "enroll_options", "Add classes to a trained model of prototypes from a few examples, without training."
    ),
    "list": Tool("listing", "Methods, losses, backbones, data sets, attacks and packaged recipes."),
    "show": Tool("show", "A recipe, whole, and the figures published for it; or what a name stands for."),
    "compare": Tool("compare", "Finished runs side by side: mean and deviation over seeds, as a table and a figure."),
    "curves": Tool("curves", "Curves over training, of finished or running runs: mean and deviation over seeds."),
    "doctor": Tool("doctor", "Versions, kernel libraries, GPU and data sets: what is live, and why the rest is not."),
}


def run_tool(command: str, options: Sequence[str], prog: str, train: Train) -> int:
    """Run a tool by name.

    Args:
        command: the tool's name, of `TOOLS`.
        options: its words.
        prog: what help calls it.
        train: what runs a training command, for tools that train.

    Returns:
        The exit code.
    """
    module = import_module(f"robustdml_ext.tools.{TOOLS[command].module}")
    code: int = module.command(options, prog, train)
    return code
