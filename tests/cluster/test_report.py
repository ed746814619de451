"""The report reads what runs leave, in whatever state they are, and shows a model's text as text."""

import html
import json
import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from run_dirs import EVIL, PROGRAM, write_run

from azero.errors import UserError
from cluster.cli import main
from cluster.report import figures, tables
from cluster.report.data import read
from cluster.report.figures import Curve
from cluster.report.page import build, sections


def page_of(*paths, **options):
    return build(list(paths), **options).read_text(encoding="utf-8")


@pytest.fixture
def unpainted(monkeypatch):
    """Leave pictures empty, which takes most of a report's time, where a test looks at the text beside them."""
    monkeypatch.setattr(Figure, "savefig", lambda figure, buffer, **_: buffer.write("<svg></svg>"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The page of a run of 20 steps. Painting one takes most of a test's time."""
    return page_of(write_run(tmp_path_factory.mktemp("finished") / "r", steps=20))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """The page of a run whose model wrote what would leave its place."""
    return page_of(write_run(tmp_path_factory.mktemp("hostile") / "r", steps=2, evil=True))


def embedded_episodes(page):
    """What the browser of episodes parses."""
    return json.loads(re.search(r'id="episodes">(.*?)</script>', page, re.DOTALL)[1])


def test_a_finished_run_has_every_section_and_all_episodes(finished):
    for title in ("Accuracy", "Curriculum", "Diversity", "Rewards", "Optimisation", "Synchrony", "Time", "Episodes"):
        assert f"<h2>{title}</h2>" in finished
    [[name, rows]] = embedded_episodes(finished)
    assert name == "r" and len(rows) == 20 * 6
    assert finished.count("<svg") >= 15 and "has not reached its last step" not in finished


def test_a_place_that_the_buffer_filled_is_not_what_the_proposer_set(tmp_path):
    run = write_run(tmp_path / "r", steps=2)
    lines = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    for line in lines[:6]:
        line["proposal"] = None
    (run / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    wrote = sum(line["problem"] is not None for line in lines[6:])
    (found,) = read([run]).runs
    assert len(found.problems) == wrote > 0
    assert len(found.episodes) == 12 and set(found.problems["step"]) == {2}
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("source: selfplay", "source: random"))  # without a proposer
    (found,) = read([run]).runs
    assert len(found.problems) == sum(line["problem"] is not None for line in lines)


@pytest.mark.usefixtures("unpainted")
def test_the_report_says_whether_the_run_trained_on_evaluation_problems(tmp_path):
    """Each run by its own count; a run of an older version has none."""
    old, new = write_run(tmp_path / "old", steps=2), write_run(tmp_path / "new", steps=2)
    lines = [json.loads(line) for line in (new / "metrics.jsonl").read_text().splitlines()]
    for line, n in zip(lines[1:], (4, 3), strict=True):
        line["problems/in_evaluation"] = n
    (new / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    solved = sum('"problem": {' in line for line in (new / "samples.jsonl").read_text().splitlines())
    text = f"Evaluation problems among those trained on: 7 of {solved} (task.exclude_evaluation=false)."
    assert text in page_of(new)
    both = page_of(old, new, out=tmp_path / "both.html")
    assert f"old: not counted (task.exclude_evaluation=false); new: 7 of {solved}" in both
    assert "leaves it out" not in both


@pytest.mark.usefixtures("unpainted")
def test_each_policy_has_its_curve(tmp_path):
    """Beside that of all policies, whatever they are called, and not among the other metrics a second time."""
    run = write_run(tmp_path / "r", steps=5)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    own = {"entropy": 1.0, "entropy/writer": 0.5, "entropy/reader": 1.5, "sync/bytes": 30, "sync/bytes/writer": 10}
    (run / "metrics.jsonl").write_text("".join(json.dumps(line | own) + "\n" for line in lines))
    (found,) = read([run]).runs
    shown = {p.title: p.keys for part in sections([found]) for p in part.pictures}
    assert shown["Entropy of the policy"] == ["entropy", "entropy/reader", "entropy/writer"]
    assert shown["Bytes of a weight load"] == ["sync/bytes", "sync/bytes/writer"]
    assert "writer" not in shown


def test_nothing_in_the_page_asks_the_network(finished):
    assert "default-src 'none'" in finished
    assert (
        not re.search(r"""(?:src|href)=["'](?!#|data:)""", finished)
        and "@import" not in finished
        and "url(" not in finished.replace("url(#", "")
    )


@pytest.mark.usefixtures("unpainted")
def test_a_run_in_progress_with_a_torn_line_is_shown(tmp_path):
    run = write_run(tmp_path / "r", steps=7, total_steps=50)
    with open(run / "metrics.jsonl", "a") as f:
        f.write('{"step": 8, "ti')
    page = page_of(run)
    assert (run / "report.html").read_text(encoding="utf-8") == page
    assert "has not reached its last step" in page and "7 of 50" in page


def test_a_run_before_its_first_step_is_shown(tmp_path):
    run = write_run(tmp_path / "r", steps=1)
    for name in ("metrics.jsonl", "evals.jsonl", "samples.jsonl", "provenance.json"):
        (run / name).unlink()
    page = page_of(run)
    assert "No evaluation has finished yet." in page and "No episode has been recorded yet." in page


def test_text_of_a_model_cannot_leave_its_place(hostile):
    assert "<img" not in hostile and "<b>bold" not in hostile and hostile.count("</script>") == 2
    (rows,) = (rows for _, rows in embedded_episodes(hostile))
    answers = [a for row in rows if row[6] for a in row[6][3]]
    assert [a[5] for a in answers if a[4] == EVIL] == [EVIL, EVIL], "with the reasons of their verdicts"
    payload = {"program": PROGRAM, EVIL: [["1", EVIL], ["2", 3]]}
    assert [row[5][5] for row in rows if row[5] and row[5][5]] == [payload, payload]


def test_programs_keep_their_lines_in_the_table_of_problems(hostile):
    shown = re.findall(r'<td data-head="problem" class="left mono">([^<]*)</td>', hostile)
    assert PROGRAM in map(html.unescape, shown)
    assert '<td data-head="cell" class="left">' in hostile


@pytest.mark.usefixtures("unpainted")
def test_a_payload_keeps_its_order_and_long_parts_are_cut(tmp_path):
    run = write_run(tmp_path / "r", steps=1)
    hidden = [["1", "2"]] * 500  # 12 characters each: ["1", "2"] and a comma with a blank
    lines = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    lines[0]["problem"]["payload"] = {"shown": [["3", "4"]], "program": "x" * 3000, "arity": 1, "hidden": hidden}
    del lines[1]["problem"]["payload"], lines[1]["solver"]["reasons"]  # as in records of former versions
    (run / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    [[_, rows]] = embedded_episodes(page_of(run))
    payload = rows[0][5][5]
    assert list(payload) == ["shown", "program", "arity", "hidden"]
    assert payload["shown"] == [["3", "4"]] and payload["arity"] == 1
    assert payload["program"] == "x" * 2000 + " … (1,000 more characters)"
    assert payload["hidden"].startswith('[["1", "2"], ["1"') and payload["hidden"].endswith("… (4,000 more characters)")
    assert rows[1][5][5] == {} and {a[5] for a in rows[1][6][3]} == {None}


@pytest.mark.usefixtures("unpainted")
def test_more_episodes_than_fit_are_thinned_evenly_over_the_steps(tmp_path, monkeypatch):
    run = write_run(tmp_path / "r", steps=40)
    whole = sum(map(len, read([run]).runs[0].rows))
    monkeypatch.setattr(read, "__defaults__", (whole // 4,))  # the budget
    page = page_of(run)
    [[_, rows]] = embedded_episodes(page)
    assert 40 <= len(rows) <= 70 and f"{len(rows)} of 240" in page
    steps = [row[1] for row in rows]
    assert min(steps) <= 2 and max(steps) >= 39


@pytest.mark.usefixtures("unpainted")
def test_several_runs_share_one_page(tmp_path):
    one, two = write_run(tmp_path / "one", steps=10), write_run(tmp_path / "two", steps=10)
    page = page_of(one, two, out=tmp_path / "both.html")
    assert [name for name, _ in embedded_episodes(page)] == ["one", "two"]
    assert "<h1>2 runs</h1>" in page and not (one / "report.html").exists()


@pytest.mark.usefixtures("unpainted")
def test_a_sweep_shows_its_comparison_and_opens_into_its_runs(tmp_path):
    for name in ("a-0", "a-1", "b-0"):
        write_run(tmp_path / name, steps=10)
    arm = {
        "before": [0.5],
        "after": [0.8],
        "mean": 0.8,
        "sd": None,
        "interval": None,
        "seconds": [90.0],
        "columns": {"lr": [0.5]},
    }
    beside = {"mean": 0.123, "sd": 0.01, "interval": [0.1, 0.2], "seeds_to_tell": 7}
    arms = {
        "a": arm | {"seeds": [0, 1], "difference": None, "failed": {}},
        "b": arm | {"seeds": [0], "difference": beside, "failed": {"1": "exit status 1: <collapse>"}},
    }
    (tmp_path / "sweep.json").write_text(
        json.dumps({"name": "s", "control": "a", "metric": "eval/accuracy", "arms": arms})
    )
    page = page_of(tmp_path)
    assert (tmp_path / "report.html").exists() and [n for n, _ in embedded_episodes(page)] == ["a-0", "a-1", "b-0"]
    assert "a (control)" in page and "+12.3 [10.0, 20.0]" in page and "exit status 1: &lt;collapse&gt;" in page


@pytest.mark.usefixtures("unpainted")
def test_the_proposers_evaluation_is_shown(tmp_path):
    run = write_run(tmp_path / "r", steps=10)
    assert "The proposer has not been evaluated" in page_of(run)
    shares = {"easy": 0.5, "medium": 0.25, "hard": 0.25}
    rates = {tier: [1] * 11 for tier in shares}
    line = {"n": 240, "valid": 0.321, "unique": 0.9, "structures": 17, "tier_shares": shares, "tier_match": 0.6}
    lines = [{"step": s, **line, "solve_rates": rates, "reasons": {}} for s in (0, 10)]
    (run / "proposer_evals.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    page = page_of(run)
    assert "Proposer&#39;s evaluation" in page and page.count("32.1 %") == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "no such directory"),
        (lambda p: p.mkdir(), "holds neither config.yaml nor sweep.json"),
        (lambda p: (p.mkdir(), (p / "config.yaml").write_text("- a list")), "cannot be read"),
    ],
)
def test_what_is_no_run_gets_one_line(tmp_path, make, message):
    make(tmp_path / "x")
    with pytest.raises(UserError, match=message):
        build([tmp_path / "x"])


@pytest.mark.usefixtures("unpainted")
def test_the_command_writes_where_it_is_told(tmp_path, capsys):
    run = write_run(tmp_path / "r", steps=2)
    assert main(["report", str(run), "--out", str(tmp_path / "here.html")]) == 0
    assert capsys.readouterr().out == f"wrote {tmp_path / 'here.html'}\n" and (tmp_path / "here.html").exists()
    assert main(["report", str(run), "--out", str(tmp_path / "no" / "here.html")]) == 2


def edited(run, change):
    """The run with each line of its metrics as `change(line)` leaves it."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        change(line)
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


@pytest.mark.usefixtures("unpainted")
def test_own_metrics_are_shown(tmp_path):
    own = {"mine/score": 0.5, "mine/note": "text", "loss/total": 1.0, "loss/policy": 1.0}
    run = edited(write_run(tmp_path / "r", steps=4), lambda line: line.update(own))
    page = page_of(run)
    assert "<h2>Others</h2>" in page and "mine/note" not in page
    collapsed = re.search(r'<details class="more">.*?</details>', page, re.DOTALL)[0]
    assert "<h3>mine/score</h3>" in collapsed and "<h3>Loss</h3>" not in collapsed
    shown = re.findall(r"<code>([\w/]+)</code>", page)
    assert shown.count("loss/policy") == shown.count("loss/total") == 1, "each in a picture of its own, not again"


def test_a_curve_breaks_where_a_metric_is_absent(tmp_path):
    def change(line):
        if line["step"] in (3, 4, 6):
            line.pop("entropy", None)

    (run,) = read([edited(write_run(tmp_path / "r", steps=8), change)]).runs
    values = run.series("entropy")
    assert list(values.dropna().index) == [1, 2, 5, 7, 8]
    axes = Figure().add_subplot()
    figures.plot(axes, figures.smooth(values), color="red")
    line, alone = axes.lines
    assert [int(s) for s in np.asarray(line.get_xdata())[np.isnan(line.get_ydata())]][-3:] == [3, 4, 6]
    assert list(alone.get_xdata()) == [5], "a value between two gaps has no line"


def drawn_by(monkeypatch, figure, *arguments):
    """The lines that a figure's function plots, as (steps, values)."""
    lines, plot = [], Axes.plot

    def plotted(axes, *args, **style):
        made = plot(axes, *args, **style)
        lines.extend((list(line.get_xdata()), list(line.get_ydata())) for line in made)
        return made

    monkeypatch.setattr(Axes, "plot", plotted)
    assert figure(*arguments) is not None
    return lines


def test_labels_over_time_break_where_a_label_is_absent(tmp_path, monkeypatch):
    """Not joined across the gap."""
    run = write_run(tmp_path / "r", steps=30)
    lines = [json.loads(line) for line in (run / "evals.jsonl").read_text().splitlines()]
    del lines[1]["by_label"]["low"]
    (run / "evals.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = drawn_by(monkeypatch, figures.labels_over_time, *read([run]).runs)
    assert [steps for steps, values in found if np.isnan(values).any()] == [[0, 10, 20, 30]]
    (values,) = (values for _, values in found if np.isnan(values).any())
    assert list(np.isnan(values)) == [False, True, False, False]


@pytest.mark.parametrize("value", ["Infinity", "-Infinity", "NaN", "1e300", "-1e305", "1e999", "1" + 310 * "0"])
def test_a_value_that_cannot_be_drawn_is_missing_in_figures(tmp_path, monkeypatch, value):
    run = write_run(tmp_path / "r", steps=4)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    lines[2] = re.sub(r'"entropy": [^,}]*', f'"entropy": {value}', lines[2])
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    spec = Curve("Entropy", "nats", ["entropy"])
    steps, values = max(drawn_by(monkeypatch, figures.curve, read([run]).runs, spec), key=lambda line: len(line[0]))
    assert steps == [0, 1, 2, 3, 4] and list(np.isnan(values)) == [True, False, True, False, False]


@pytest.mark.parametrize("value", ["Infinity", "NaN", "1e300", "1" + 310 * "0"])
def test_a_value_that_cannot_be_written_is_missing_in_tables(tmp_path, value):
    run = write_run(tmp_path / "r", steps=10)
    for name, key in (("evals.jsonl", "accuracy"), ("samples.jsonl", "success_rate"), ("metrics.jsonl", "time_s")):
        (run / name).write_text(re.sub(rf'"{key}": [0-9.]+', f'"{key}": {value}', (run / name).read_text()))
    (found,) = read([run]).runs
    assert {row["success"] for row in tables.frequent(found).rows} == {"–"}
    assert {row["before"].split()[0] for row in tables.by_group(found).rows} == {"–"}
    assert tables.summary([found]).rows[0]["time"] == "–" and tables.headline(found)[:2] == ["–", "–"]
    if value == "1e300":
        assert "<h2>Accuracy</h2>" in page_of(run)


def test_names_in_any_script_are_drawn_without_a_warning(tmp_path, recwarn):
    """The reader's browser has the fonts; the figures hold the names as text."""
    names = {"low": "简单 한국어", "high": "ยาก"}
    run = write_run(tmp_path / "r", steps=20)
    for old, new in names.items():
        (run / "evals.jsonl").write_text((run / "evals.jsonl").read_text().replace(f'"{old}"', f'"{new}"'))
    (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("name: r\n", "name: 模型\n", 1))
    page = page_of(run)
    assert all(re.search(f"<text[^>]*>{name}</text>", page) for name in names.values()) and "模型" in page
    assert [str(w.message) for w in recwarn if "Glyph" in str(w.message)] == []


def with_cells(run, names, *, former):
    """The run with its cells called `names`, and with the keys of records of former versions or of this one."""
    keys = [("requested_tier", "requested_cell"), ("tier", "cell")]
    for name in ("metrics.jsonl", "samples.jsonl"):
        text = (run / name).read_text()
        for old, new in keys:
            text = text.replace(*((f'"{new}"', f'"{old}"') if former else (f'"{old}"', f'"{new}"')))
        for tier, cell in zip(("easy", "medium", "hard"), names, strict=True):
            text = re.sub(rf'("|share/|proposer/|solver/)(?:[a-z]+/)?{tier}"', rf'\g<1>{cell}"', text)
        (run / name).write_text(text)
    return run


def test_records_of_former_versions_are_read_as_those_of_this_one(tmp_path):
    """Cells were tiers once; the report takes them from the records, in their order."""
    names = (["easy", "medium", "hard"], ["sums/easy", "sums/medium", "sums/hard"])
    runs = [with_cells(write_run(tmp_path / str(i), steps=10), cells, former=i == 0) for i, cells in enumerate(names)]
    found = read(runs).runs
    assert [list(run.cells) for run in found] == list(names)
    counts = [[list(row.values())[1:] for row in tables.cells(run).rows] for run in found]
    assert counts[0] == counts[1]
    page = page_of(runs[1])
    assert all(re.search(f"<text[^>]*>{cell}</text>", page) for cell in names[1])
    assert "<option>sums/hard</option>" in page and "Baselines of the solver" in page


def test_a_domain_with_other_cells_needs_no_change_here(tmp_path):
    """Of which some have no tier."""
    names = ["deduction", "abduction", "induction"]
    run = with_cells(write_run(tmp_path / "r", steps=4), names, former=False)
    assert list(read([run]).runs[0].cells) == names
    page = page_of(run)
    assert "deduction asked" in page and "<option>induction</option>" in page


def test_a_curve_that_equals_another_does_not_hide_it():
    axes = Figure().add_subplot()
    for order in range(3):
        figures.plot(axes, pd.Series(1.0, range(4)), order, color="red")
    widths = [line.get_linewidth() for line in axes.lines[::2]]
    assert widths == sorted(widths, reverse=True) and len(set(widths)) == 3


def test_hostile_run_names_are_shown_as_they_are_written(tmp_path):
    """Four runs on one page. Names as JSON writes them."""
    names = ["</script><b>", "[x]", "a\\u2028b", "half \\ud800 pair"]
    runs = [write_run(tmp_path / str(i), steps=2) for i in range(len(names))]
    for i, (run, name) in enumerate(zip(runs, names, strict=True)):
        config = (run / "config.yaml").read_text()
        config, changed = re.subn(rf"name: '?{i}'?\n", lambda _, n=name: f'name: "{n}"\n', config, count=1)
        assert changed
        (run / "config.yaml").write_text(config)
    page = page_of(*runs)
    assert "<b>" not in page.partition("<body")[2].partition('id="config"')[0]
    shown = [json.loads(f'"{name}"').encode("utf-8", "replace").decode() for name in names]
    assert all(html.escape(name) in page for name in shown)
    assert [label for label, _ in embedded_episodes(page)] == shown
