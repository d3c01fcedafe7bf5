"""Names and words that come from elsewhere are text on the page, whatever they are."""

import tempfile
from html.parser import HTMLParser
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hand_made
from hand_made import entry, training
from onecycle_sweeps import report

MARKS = ("<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "\"><b x='", "</code></pre><hr>", "&lt;i&gt;")
hostile = st.lists(st.sampled_from(MARKS), min_size=1, max_size=3).map("".join)


class Elements(HTMLParser):
    """The elements of a page with their attributes, as a browser finds them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[str, ...]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, tuple(name for name, _ in attrs)))


def page(folder: Path, words: tuple[str, str, str, str]) -> Elements:
    policy, key, value, cause = words
    made = hand_made.sweep(folder, entry("a", policy, 0, {key: value}), entry("b", "clr", 0))
    training(made.trial("a"), accuracy={1: 0.5, 4: 0.9}, loss={1: 2.0, 4: 0.1})
    training(made.trial("b"), status="diverged", cause=cause, accuracy={1: 0.3}, loss={1: 3.0})
    return Elements(report.write(made)[0].read_text())


@settings(max_examples=4, suppress_health_check=[HealthCheck.too_slow])
@given(st.tuples(hostile, hostile, hostile, hostile))
def test_no_policy_no_override_and_no_cause_becomes_an_element_of_the_page(words: tuple[str, str, str, str]):
    with tempfile.TemporaryDirectory() as folder:
        found = page(Path(folder), words).found
    names = [tag for tag, _ in found]
    assert names.count("script") == 0
    assert not {"img", "b", "hr", "i"} & set(names)
    assert not [name for _, attributes in found for name in attributes if name.startswith("on")]
