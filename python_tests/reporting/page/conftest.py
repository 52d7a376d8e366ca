"""What the tests of the page share."""

from __future__ import annotations

import pytest
from markupsafe import Markup

from robustdml_ext.reporting.page import bars, curves, maps
from robustdml_ext.reporting.page.drawing import Panel


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Panels in name alone, for tests of what stands around them: to draw one takes a fifth of a second."""

    def panel(identity: str, alt: str, *_: object, **__: object) -> Panel:
        return Panel(Markup('<svg role="img" aria-label="{}" data-name="{}"></svg>').format(alt, identity), 100)

    for module in (bars, curves, maps):
        monkeypatch.setattr(module, "draw_panel", panel)
