"""report.html: what it says, that it needs nothing beside it, and that no text from elsewhere becomes markup."""

import base64
import csv
import hashlib
import json
import math
import re
import socket
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hand_made
from hand_made import entry, range_test_entry, training
from kinds_of_sweeps import KINDS
from onecycle_sweeps import report
from onecycle_sweeps.policies import OneCycle
from onecycle_sweeps.report import canvas, figures, page, range_tests, standings, tables
from onecycle_sweeps.report.claims import MINUS, Claim
from onecycle_sweeps.report.comparison import compare
from onecycle_sweeps.report.page import SCRIPT
from onecycle_sweeps.report.standings import detectable_words, difference_words, interval_words, p_words, speedup_words
from onecycle_sweeps.report.statistics import Difference, Speedup
from onecycle_sweeps.sweep import Sweep

RATES = {"minimum": 0.2, "steepest": 0.1, "valley": 0.01, "slide": 0.1, "max_lr": 0.2}
FALLING = [(10 ** (i / 20 - 4), 2.3 - i / 60 + (i % 3) / 20, 2.3 - i / 60) for i in range(100)]
ONE_CYCLE = OneCycle(max_lr=0.3, total_steps=20)


class Read(HTMLParser):
    """A page as a reader sees it: its tags, ids, text, and headings."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.said: list[str] = []
        self._within: list[str] = []
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self._within.append(tag)
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        while self._within and self._within.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & {*self._within}:
            self.said.append(("## " if self._within[-1:] == ["h2"] else "") + data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.said).split())

    @property
    def headings(self) -> list[str]:
        return [said.removeprefix("## ") for said in self.said if said.startswith("## ")]

    @property
    def ids(self) -> list[str]:
        return [value for _, attributes in self.tags if (value := attributes.get("id"))]


def one_cycle(sweep: Sweep, signature: str, *, off_at: int | None = None, seed: int = 0) -> None:
    """A training whose config has all that its policy takes; at `off_at` it used another rate."""
    lr = [ONE_CYCLE(step).lr + (0.01 if step == off_at else 0.0) for step in range(20)]
    momentum = [ONE_CYCLE(step).momentum or 0.0 for step in range(20)]
    training(
        sweep.trial(signature),
        accuracy={9: 0.5, 19: 0.9 + seed / 100},
        loss={9: 2.0, 19: 0.1},
        lr=lr,
        momentum=momentum,
    )
    policy = {"_target_": "onecycle_sweeps.policies.OneCycle", "max_lr": "auto"}
    config = {"task": "train", "seed": seed, "epochs": 2, "policy": policy, "optimizer": {"momentum": 0.9}}
    sweep.trial(signature).create(config | {"needs": {"data": "da7ada7a"}})


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Two seeds of one cycle and one of clr, which diverged, at the rate of a range test; its report is written."""
    tmp_path = tmp_path_factory.mktemp("page")
    made = hand_made.sweep(
        tmp_path, range_test_entry(), *(entry(f"one{i}", "onecycle", i) for i in (0, 1)), entry("c", "clr", 0)
    )
    hand_made.range_test(made.trial("range"), FALLING, suggestions=RATES)
    for seed in (0, 1):
        one_cycle(made, f"one{seed}", seed=seed)
    training(made.trial("c"), status="diverged", cause="the loss is nan", accuracy={1: 0.3}, loss={1: math.inf})
    report.write(report.compare(made))
    return made


def page_of(sweep: Sweep) -> Read:
    return Read(sweep.report / report.PAGE)


def written(sweep: Sweep) -> Read:
    return Read(hand_made.page(sweep))


@pytest.mark.slow
def test_the_sections_follow_the_order_of_a_readers_questions(sweep: Sweep) -> None:
    assert page_of(sweep).headings == [
        "Result",
        "Curves",
        "Each seed at the end",
        "Range test",
        "Warnings and notes",
        "Every group",
        "Setup",
        "How to repeat it",
        "Trials",
        "Files",
    ]


@pytest.mark.slow
def test_the_page_is_the_golden_one(tmp_path: Path, golden: Callable[[str, str], None]) -> None:
    """Style, script and figures are left out: other tests and a browser look at them."""
    made = hand_made.mixed(tmp_path)
    text = (
        hand_made.page(made)
        .read_text()
        .replace(str(tmp_path), "FOLDER")
        .replace(f" on {socket.gethostname()} ", " on HOST ")
    )
    text = re.sub(r"<(style|script)>.*?</\1>", "", text, flags=re.DOTALL)
    text = re.sub(r"sha256-[^']+", "HASH", text)
    text = re.sub(r'<svg [^>]*class="drawn".*?</svg>', "FIGURE", text, flags=re.DOTALL)
    golden("report.html", re.sub(r"\n\s*\n+", "\n", text))


@pytest.mark.slow
def test_the_page_has_all_that_is_needed_to_repeat_the_sweep(sweep: Sweep) -> None:
    text = page_of(sweep).text
    assert "python -m onecycle_sweeps policy=constant,onecycle -m" in text
    assert all(word in text for word in (sweep.id, sweep.cwd, "da7ada7a", "none: the folder is no checkout"))
    assert all(one.signature in text for one in sweep.trials)


@pytest.mark.slow
def test_the_page_counts_the_trials_and_says_why_some_have_no_result(sweep: Sweep) -> None:
    text = page_of(sweep).text
    assert "3 trainings and 1 range test: 3 finished, 1 diverged" in text
    assert compare(sweep).answer in text
    assert "onecycle 0.3 2/2 90.50 ±0.71" in text
    assert re.search(r"clr max_lr=0.3 seed=0 c diverged the loss is nan", text)


def test_a_sweep_that_has_not_begun_has_a_page(tmp_path: Path) -> None:
    made = hand_made.sweep(tmp_path, range_test_entry(), entry("a", "step", 0))
    page = written(made)
    assert page.headings == ["Result", "Every group", "Setup", "How to repeat it", "Trials", "Files"]
    assert "On digits with simple_cnn, no training has finished yet." in page.text


def test_a_range_test_alone_has_a_page(tmp_path: Path) -> None:
    made = hand_made.sweep(tmp_path, range_test_entry())
    hand_made.range_test(made.trial("range"), FALLING, suggestions=RATES)
    assert "the range test suggests max_lr=0.2." in written(made).text


@pytest.mark.slow
def test_what_was_used_is_compared_with_what_was_planned(tmp_path: Path) -> None:
    made = hand_made.sweep(tmp_path, entry("a", "onecycle", 0))
    one_cycle(made, "a")
    assert "were as planned, bit for bit, at each of the 20 steps of the trial shown." in written(made).text
    one_cycle(made, "a", off_at=7)
    wanted = f"not the planned one: onecycle max_lr=0.3 seed=0: lr at step 7 was {ONE_CYCLE(7).lr + 0.01:.6g}, planned"
    assert wanted in written(made).text


@pytest.mark.slow
def test_a_policy_that_cannot_be_built_here_is_named(tmp_path: Path) -> None:
    made = hand_made.sweep(tmp_path, entry("a", "mine", 0))
    one_cycle(made, "a")
    config = made.trial("a").config()
    made.trial("a").create(config | {"policy": {"_target_": "my_own.Policy", "max_lr": "auto"}})
    text = written(made).text
    assert "What was planned is unknown: mine max_lr=0.3 seed=0: " in text and "my_own" in text
    assert "as planned, bit for bit" not in text


@pytest.mark.slow
def test_the_page_needs_nothing_beside_it(sweep: Sweep) -> None:
    page = page_of(sweep)
    assert not {"img", "iframe", "object", "embed"} & {tag for tag, _ in page.tags}
    assert {a.get("href") for tag, a in page.tags if tag == "link"} == {"data:,"}
    assert not re.search("https?:", (sweep.report / report.PAGE).read_text())
    beside = {a["href"] for tag, a in page.tags if tag == "a" and not (a["href"] or "").startswith("#")}
    assert beside == {path.name for path in sweep.report.iterdir()} - {report.PAGE}


@pytest.mark.slow
def test_the_only_script_of_the_page_is_ours_and_its_hash_alone_is_allowed_to_run(sweep: Sweep) -> None:
    text = (sweep.report / report.PAGE).read_text()
    assert re.findall(r"<script\b[^>]*>(.*?)</script>", text, flags=re.DOTALL) == [SCRIPT.read_text()]
    (policy,) = (
        a["content"] or "" for tag, a in page_of(sweep).tags if a.get("http-equiv") == "Content-Security-Policy"
    )
    digest = base64.b64encode(hashlib.sha256(SCRIPT.read_bytes()).digest()).decode()
    allowed = dict(part.split(" ", 1) for part in policy.split("; "))
    assert allowed["default-src"] == "'none'" and allowed["script-src"] == f"'sha256-{digest}'"
    assert not [name for _, attributes in page_of(sweep).tags for name in attributes if name.startswith("on")]


def test_ids_are_unique_and_each_reference_has_its_target(sweep: Sweep) -> None:
    page = page_of(sweep)
    assert len(page.ids) == len(set(page.ids)) > 20
    text = (sweep.report / report.PAGE).read_text()
    assert {*re.findall(r'href="#([^"]+)"', text), *re.findall(r"url\(#([^)]+)\)", text)} <= set(page.ids)


def test_every_colour_of_the_figures_is_a_variable_of_the_page(sweep: Sweep) -> None:
    text = (sweep.report / report.PAGE).read_text()
    style, body = text.split("</style>")
    assert not re.findall(r"#[0-9a-fA-F]{6}\b", body)
    used = set(re.findall(r"var\((--\w+)\)", body))
    assert used > {"--ink", "--grid", "--c0"}
    # In light, in dark, and on paper.
    assert all(len(re.findall(rf"{name}: #", style)) == 3 for name in used)


def test_a_colour_without_a_variable_is_refused() -> None:
    with pytest.raises(KeyError, match="#123456"):
        canvas.themed(
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"><g style="fill: #123456"/></svg>', "a", "b"
        )


@pytest.mark.slow
def test_a_page_is_the_same_when_it_is_written_again(sweep: Sweep) -> None:
    first = {path: path.read_bytes() for path in sweep.report.iterdir()}
    assert {path: path.read_bytes() for path in report.write(report.compare(sweep))} == first


HOSTILE = """<script>alert('x')</script> "quoted" & $\\frac{$ </style> -->"""


@pytest.mark.slow
def test_no_text_from_elsewhere_becomes_markup(tmp_path: Path) -> None:
    names = [entry(f"a{i}", HOSTILE, i, {"note": HOSTILE}) for i in range(3)]
    made = hand_made.sweep(tmp_path, range_test_entry(note=HOSTILE), *names)
    hand_made.range_test(made.trial("range"), FALLING, suggestions=RATES)
    training(made.trial("a0"), accuracy={4: 0.9}, loss={4: 0.1}, warnings=[HOSTILE])
    training(made.trial("a1"), status="failed", cause=HOSTILE)
    training(made.trial("a2"), status="diverged", cause=HOSTILE)
    # The names are in the figures beside the page too.
    report.write(report.compare(made))
    page = page_of(made)
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert page.text.count("<script>alert('x')</script>") > 8
    assert [tag for tag, _ in page.tags].count("style") == 1
    assert all("$\\frac{$" in said for said in page.said if "frac" in said)


@pytest.mark.slow
def test_flags_are_escaped(tmp_path: Path) -> None:
    name = "a & b <i>"
    made = hand_made.sweep(tmp_path, *(entry(f"{i}", policy, 0) for i, policy in enumerate(("clr", name))))
    for signature, precision in (("0", "fp32"), ("1", "bf16")):
        training(made.trial(signature), accuracy={4: 0.9}, resolved={"precision": precision})
    page = written(made)
    (flag,) = compare(made).claims.flags
    assert name in flag and flag in page.text
    assert "i" not in {tag for tag, _ in page.tags}


def test_the_page_names_a_few_of_many_files_that_changed(tmp_path: Path) -> None:
    made = hand_made.sweep(tmp_path, *(entry(policy, policy, 0) for policy in ("clr", "step")))
    for policy, version in (("clr", "1"), ("step", "2")):
        files = {f"file{i:02}.py": version for i in range(20)}
        training(made.trial(policy), accuracy={4: 0.9}, resolved={"code": {"net.Net": version}, "files": files})
    page = written(made)
    (_, flag) = compare(made).claims.flags
    assert flag in page.text and 0 < flag.count("file") <= 6 and flag.count("in all") == 2


def test_a_password_in_the_command_stays_out_of_the_page(sweep: Sweep) -> None:
    made = replace(sweep, command=("tracking.uri=https://me:hunter2@host:5000/a", "-m"))
    assert made.command_line == "python -m onecycle_sweeps tracking.uri=https://host:5000/a -m"


def test_standalone_figures_stay_light_and_have_text(sweep: Sweep) -> None:
    drawn = (sweep.report / "val_accuracy.svg").read_text()
    assert "#ffffff" in drawn and "var(" not in drawn
    assert ">val accuracy (%)<" in drawn and "<dc:date>" not in drawn


def test_standalone_figures_are_as_wide_as_what_shows_them(sweep: Sweep) -> None:
    for path in sweep.report.glob("*.svg"):
        root = ElementTree.parse(path).getroot()
        assert (root.get("width"), root.get("height"), len(root.attrib["viewBox"].split())) == ("100%", None, 4)


def test_the_csv_files_hold_what_the_figures_show(sweep: Sweep) -> None:
    def rows(name: str) -> list[dict[str, str]]:
        return list(csv.DictReader((sweep.report / name).read_text().splitlines()))

    evaluations = rows("evaluations.csv")
    assert [(r["signature"], r["step"], r["val/accuracy"]) for r in evaluations[:2]] == [
        ("one0", "9", "0.5"),
        ("one0", "19", "0.9"),
    ]
    assert {r["signature"] for r in evaluations} == {"one0", "one1", "c"}
    steps = [r for r in rows("trajectories.csv") if r["signature"] == "one0"]
    assert (
        [float(r["lr"]) for r in steps]
        == [float(r["planned_lr"]) for r in steps]
        == [ONE_CYCLE(s).lr for s in range(20)]
    )
    assert [float(r["lr"]) for r in rows("range_tests.csv")] == [lr for lr, _, _ in FALLING]


@pytest.mark.slow
def test_of_many_range_tests_the_first_are_drawn(tmp_path: Path) -> None:
    tests = [range_test_entry(batch_size=str(i)) for i in range(30)]
    made = hand_made.sweep(tmp_path, *(type(one)(f"range{i}", one.kind, one.varies) for i, one in enumerate(tests)))
    for i in range(30):
        hand_made.range_test(made.trial(f"range{i}"), FALLING, suggestions=RATES)
    text = written(made).text
    assert "The first 24 of 30." in text and text.count("batch_size=23 ") > 1


def test_a_claim_is_shown_with_its_numbers_and_dashes_for_what_is_missing() -> None:
    difference = Difference(mean=0.012, low=0.004, high=0.02, p=0.01, pairs=3, detectable=0.009)
    speedup = Speedup(1.5, None, None, 3, 0, 0)
    claim = Claim("onecycle", "clr", "epochs=5", difference, p_adjusted=0.02, speedup=speedup)
    words = (difference_words, interval_words, p_words, detectable_words, speedup_words)
    assert [one(claim) for one in words] == ["+1.20", "+0.40 to +2.00", "0.02", "0.90", "1.50x"]
    assert {one(Claim("onecycle", "clr", None, None)) for one in words} == {"-"}


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Four policies with three seeds each, in four epochs; its page is written."""
    made = KINDS["default"](tmp_path_factory.mktemp("default"))
    hand_made.page(made)
    return made


@pytest.mark.slow
def rate_lines(made: Sweep) -> str:
    return " ".join(page.rate_lines(compare(made)))


@pytest.mark.slow
def test_a_rate_that_is_not_the_range_tests_is_not_said_to_be_from_it(default: Sweep, tmp_path: Path) -> None:
    assert "max_lr=0.3" in rate_lines(default) and "suggests max_lr=0.2" in rate_lines(default)
    assert "verdict of" not in rate_lines(default)
    assert "max_lr=0.3, the verdict of the range test" in rate_lines(hand_made.mixed(tmp_path))


def test_policies_that_tried_as_many_rates_are_at_the_best_of_so_many(tmp_path: Path) -> None:
    assert "the best of 5 rates" in rate_lines(KINDS["rates"](tmp_path))


def test_the_caption_says_where_diverged_trials_stand_in_the_order(tmp_path: Path) -> None:
    caption = standings.caption(compare(hand_made.mixed(tmp_path)))
    assert "accuracy 0" in caption and "t-test" not in caption, "no pair of two seeds was tested"


@pytest.mark.slow
def test_the_figure_of_differences_says_what_a_row_of_two_names_is(default: Sweep) -> None:
    comparison = compare(default)
    groups = figures.shown_groups([row.group for row in comparison.rows], comparison.outcomes)
    (plot,) = (one for one in report.plots(comparison, groups) if one.name == "differences")
    assert "the first minus the second" in " ".join(plot.panels[0].captions)


@pytest.mark.slow
def test_the_curves_are_said_to_be_of_the_measures_that_are_drawn(tmp_path: Path) -> None:
    """Of the regression, only the loss was evaluated on the way."""
    text = hand_made.page(KINDS["regression"](tmp_path)).read_text()
    assert "in the course of training: loss." in text


def test_the_table_of_rates_names_the_rules_of_other_programs(default: Sweep) -> None:
    (test,) = compare(default).range_tests
    _, peers = range_tests.caption_of(test).split("other programs: ")
    assert peers == "minimum / 10, valley, slide." and "steepest" not in peers


def test_what_a_claim_says_stands_once_on_the_page(default: Sweep) -> None:
    text, claims = page_of(default).text, compare(default).claims.claims
    assert len(claims) == 4
    for claim in claims:
        assert text.count(interval_words(claim)) == 1
        assert claim.sentence not in text


@pytest.mark.slow
def test_negative_numbers_have_one_sign_on_the_page_in_its_figures_and_on_the_terminal(default: Sweep) -> None:
    assert MINUS in page_of(default).text and MINUS in report.markdown(compare(default))
    for text in (page_of(default).text, report.markdown(compare(default))):
        assert not re.findall(r"(?:^|[\s(>+])-\d[\d.]*", text)


@pytest.mark.slow
def test_seconds_are_shown_only_where_all_trainings_ran_alike(default: Sweep) -> None:
    def says_seconds(made: Sweep) -> bool:
        comparison = compare(made)
        groups = figures.shown_groups([row.group for row in comparison.rows], comparison.outcomes)
        panels = [panel.name for plot in report.plots(comparison, groups) for panel in plot.panels]
        return "val-accuracy-seconds" in panels and "seconds" in tables.contents(comparison)[0]

    assert says_seconds(default)
    first, *rest = [one for one in default.trials if one.kind == "train"]
    assert not says_seconds(replace(default, trials=(replace(first, reused=True), *rest)))
    elsewhere = json.loads(json.dumps(default.trial(first.signature).resolved()))
    default.trial(first.signature).write("resolved", elsewhere | {"device": "cuda:0"})
    assert not says_seconds(default)
    default.trial(first.signature).write("resolved", elsewhere)


@pytest.mark.slow
def test_a_stability_map_says_which_tests_are_overlaid_and_what_all_share_once(tmp_path: Path) -> None:
    made = KINDS["stability map"](tmp_path)
    for i, one in enumerate(made.trials):
        config = {"task": "range_test", "range_test": {"mode": "exp"}}
        optimizer = {"_target_": "torch.optim.SGD", "nesterov": True, "momentum": i / 20, "weight_decay": i / 100}
        made.trial(one.signature).create(config | {"optimizer": optimizer})
    comparison, page = compare(made), written(made)
    (one,) = comparison.maps
    assert one.pick and f"Range tests at momentum {one.pick.momentum:g}, one for each weight decay" in page.text
    assert page.text.count("nesterov") == 1 and "SGD(nesterov=True)" in page.text
    assert comparison.answer.count("max_lr") == 1 and f"max_lr={one.pick.max_lr:.3g}" in page.text


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


def hostile_page(folder: Path, words: tuple[str, str, str, str]) -> Elements:
    policy, key, value, cause = words
    made = hand_made.sweep(folder, entry("a", policy, 0, {key: value}), entry("b", "clr", 0))
    training(made.trial("a"), accuracy={1: 0.5, 4: 0.9}, loss={1: 2.0, 4: 0.1})
    training(made.trial("b"), status="diverged", cause=cause, accuracy={1: 0.3}, loss={1: 3.0})
    return Elements(hand_made.page(made).read_text())


@pytest.mark.slow
@settings(max_examples=4, suppress_health_check=[HealthCheck.too_slow])
@given(st.tuples(hostile, hostile, hostile, hostile))
def test_no_policy_no_override_and_no_cause_becomes_an_element_of_the_page(words: tuple[str, str, str, str]):
    with tempfile.TemporaryDirectory() as folder:
        found = hostile_page(Path(folder), words).found
    names = [tag for tag, _ in found]
    assert names.count("script") == 1
    assert not {"img", "hr", "i"} & set(names)
    assert not [name for _, attributes in found for name in attributes if name.startswith("on")]
