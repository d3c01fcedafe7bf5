"""The page for people with training code of their own: all that it shows runs."""

import doctest
import re
from pathlib import Path

import pytest

import onecycle_sweeps

PAGE = Path(__file__).resolve().parent.parent / "docs" / "python.md"


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.filterwarnings("default")
def test_the_code_of_the_page_runs_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib import pyplot

    pyplot.switch_backend("agg")
    # The fences of a code block are no output.
    text = PAGE.read_text().replace("```python\n", "").replace("\n```\n", "\n")
    examples = doctest.DocTestParser().get_doctest(text, {}, "python.md", str(PAGE), 0)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    result = runner.run(examples)
    pyplot.close("all")
    assert result.attempted > 25 and result.failed == 0


def test_the_page_names_all_public_names() -> None:
    named = set(re.findall(r"`(\w+)`", PAGE.read_text()))
    assert set(onecycle_sweeps.__all__) <= named
