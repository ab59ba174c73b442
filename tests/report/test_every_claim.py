"""Generated comparisons: whatever the texts say is recomputed from the raw scores.

The oracle below is plain numpy and scipy, written for matrices (trials, examples) and shares no
code with the package. It draws its own random numbers, so that what lies on the edge of a verdict
(within 6 % of the margin) is left open.
"""

import re
from dataclasses import asdict, dataclass, field
from functools import cache

import numpy as np
import pytest
from scipy import stats

from stockpot.evaluation import Interval, paired_bootstrap
from stockpot.evaluation.claims import HELD_OUT, compare_all
from stockpot.evaluation.diagnosis import diagnose
from stockpot.evaluation.evidence import Member, SoupEvidence
from stockpot.recycling.differences import differences
from stockpot.recycling.schema import RecycleResults
from stockpot.report import markdown_table, terminal_table
from stockpot.report.headline import headline
from stockpot.report.page import render
from stockpot.report.reasons import reasons

read = RecycleResults.read


SETS = 54
BANNED = re.compile(r"\b(better|worse|helped|hurts?|helps|improves?d?|beats?)\b", re.I)
LABELS = {
    "linear_probe": ("Linear probe", "reference"),
    "single": ("One fine-tuning (mean over runs)", "single"),
    "erm": ("ERM, best run", "single"),
    "swad": ("SWAD", "single"),
    "soup_uniform": ("Soup (DiWA), uniform", "average"),
    "soup_greedy": ("Soup, greedy", "average"),
    "stock_2": ("Model Stock, 2 runs", "average"),
    "soup_pooled": ("Soup, all trials", "average"),
    "oracle": ("Best run by the held-out domain", "oracle"),
}
AVERAGES = ("soup_uniform", "soup_greedy")


@dataclass
class World:
    """Raw scores of one generated comparison, and what was written about it."""

    seed: int
    scores: dict = field(default_factory=dict)
    members: dict = field(default_factory=dict)
    results: dict = field(default_factory=dict)
    metric: str = "accuracy"
    final: str = ""
    against: str = ""


@cache
def generate(seed):
    """1 to 4 domains and trials, gains from none to large, sometimes R2, sometimes diverged."""
    rng = np.random.default_rng([71, seed])
    world = World(seed, metric="r2" if seed % 6 == 5 else "accuracy")
    domains = ["art", "cartoon", "photo", "sketch"][: 1 + seed % 4]
    trials = 1 + (seed // 4) % 4
    names = [name for name in LABELS if name in ("single", "erm") or rng.random() < 0.8]
    if seed % 5 == 0:
        names = [name for name in names if name != "soup_uniform"]
    scale = rng.choice([0.0, 0.02, 0.1])
    gains = {name: scale * rng.normal() for name in names}
    noise, size = rng.choice([0.0, 0.3]), int(rng.integers(60, 500))
    diverged = rng.choice(names) if seed % 7 == 3 else None
    for domain in domains:
        difficulty = rng.normal(0.5, 1.2, size)

        def score(gain, name="", difficulty=difficulty):
            logit = difficulty + 6 * gain + noise * rng.normal() + rng.normal(0, 0.4, size)
            if world.metric == "r2":
                return 1 - np.exp(-logit) * (1e5 if name == diverged else 0.3)
            if name == diverged:
                return (rng.random(size) < 0.1).astype(float)
            return (logit > 0).astype(float)

        for trial in range(trials):
            for name in names:
                if name == "soup_pooled" and trial > 0:
                    continue
                where = (domain, trial)
                world.scores.setdefault(name, {})[where] = score(gains[name], name)
                if name in AVERAGES:
                    runs = np.stack([score(gains[name] - 0.5 * scale) for _ in range(3)])
                    world.members.setdefault(name, {})[where] = runs
    methods = [name for name in names if name != "oracle"]
    world.final = methods[int(rng.integers(len(methods)))]
    world.against = next(n for n in ("soup_uniform", "erm", "linear_probe") if n in names)
    world.results = written(world, domains, trials, with_claims=seed % 3 > 0)
    return world


def written(world, domains, trials, with_claims):
    """The results file, made by the package from the raw scores."""
    labels = {name: LABELS[name][0] for name in world.scores}
    options = {"metric": world.metric, "rows": HELD_OUT}
    estimates = paired_bootstrap(world.scores, resamples=120)
    compared = differences(world.scores, world.scores, world.against, labels=labels, **options)
    members = {
        f"{name}/members": {where: runs.mean(axis=0) for where, runs in each.items()}
        for name, each in world.members.items()
    }
    averages = compare_all(
        world.scores | members,
        [(name, f"{name}/members") for name in world.members],
        labels=labels | dict.fromkeys(members, "its members' mean"),
        **options,
    )
    final = {"protocol": world.final, "label": labels[world.final], "folder": "model", "why": ""}
    if with_claims:
        pairs = [(world.final, n) for n in simple(world)]
        claims = compare_all(world.scores, pairs, labels=labels, **options)
        final["claims"] = [claim.to_json() for claim in claims]
    return {
        "schema": 2,
        "title": "Generated",
        "task": {
            "name": "t",
            "kind": "regression" if world.metric == "r2" else "classification",
            "metric": world.metric,
            "domains": domains,
            "classes": ["a", "b"],
            "examples": dict.fromkeys(domains, 100),
        },
        "backbone": {"kind": "k", "name": "n", "parameters": 10, "trained_parameters": 10},
        "cells": [
            {
                "held_out": domain,
                "trial": trial,
                "runs": [],
                "models": [],
                "diagnosis": [
                    {"protocol": name, **diagnosis(world, name, (domain, trial))}
                    for name in world.members
                ],
            }
            for domain in domains
            for trial in range(trials)
        ],
        "table": [
            {
                "protocol": name,
                "label": labels[name],
                "group": LABELS[name][1],
                "steps": 600.0,
                "seconds": 20.0,
                "forward_cost": 1,
                **estimates[name].to_json(),
                **compared[name].to_json(),
            }
            for name in world.scores
        ],
        "averages": [claim.to_json() for claim in averages],
        "lineage": {"nodes": [], "edges": []},
        "final": final,
        "recipe": "title: Generated\n",
        "versions": {},
        "seconds": 100.0,
    }


def simple(world):
    return [n for n in ("single", "erm", "linear_probe") if n in world.scores and n != world.final]


def plain(gaps):
    half = stats.t.isf(0.025, len(gaps) - 1) * gaps.std() / np.sqrt(len(gaps))
    return Interval(float(gaps.mean()), float(gaps.mean() - half), float(gaps.mean() + half))


def diagnosis(world, name, where):
    average, runs = world.scores[name][where], world.members[name][where]
    gap = plain(average - runs.mean(axis=0))
    joined = np.maximum(runs.mean(axis=0), np.median(runs, axis=0))
    evidence = SoupEvidence(
        tuple(Member(f"r{i}", float(run.mean())) for i, run in enumerate(runs)),
        average=float(average.mean()),
        ensemble=float(joined.mean()),
        low=gap.low,
        high=gap.high,
        gain=plain(joined - runs.mean(axis=0)),
        shortfall=plain(joined - average),
        head_shared=None if world.seed % 2 else False,
        metric=world.metric,
    )
    return asdict(diagnose(evidence))


# The oracle


@dataclass
class Truth:
    mean: float
    margin: float
    testable: bool

    @property
    def verdict(self):
        if not self.testable:
            return "not testable"
        if abs(self.mean) <= self.margin:
            return "no difference"
        return "better" if self.mean > 0 else "worse"

    @property
    def is_edge(self):
        return self.testable and abs(abs(self.mean) / max(self.margin, 1e-12) - 1) < 0.06


@dataclass
class Parts:
    """Variance of a difference: from examples, from examples that trainings share, and between."""

    mean: float
    lines: list
    rows: float
    shared: float
    between: float
    freedom: float

    @property
    def row_freedom(self):
        x = np.concatenate(self.lines)
        if not x.any():
            return 1.0
        kurtosis = np.mean(x**4) / np.mean(x**2) ** 2
        return max(1.0, 2 * len(x) / max(kurtosis - (len(x) - 3) / (len(x) - 1), 1e-9))

    def margin(self, error):
        z = stats.t.isf(error / 2, self.row_freedom)
        least = z**2 * self.rows
        if not self.freedom:
            return np.sqrt(least)
        t = stats.t.isf(error / 2, self.freedom)
        return np.sqrt(max(least / 4, z**2 * self.shared + t**2 * self.between))


def parts(first, second):
    """From matrices: one (trials, examples) array of differences a domain."""
    domains = list(dict.fromkeys(domain for domain, _ in first))
    if first.keys() == second.keys():
        tables = [np.stack([first[c] - second[c] for c in first if c[0] == d]) for d in domains]
    else:
        tables = [
            np.mean([v for c, v in first.items() if c[0] == d], axis=0)[None]
            - np.mean([v for c, v in second.items() if c[0] == d], axis=0)
            for d in domains
        ]
    count, trials = len(tables), min(len(table) for table in tables)
    level = np.array([table.mean() for table in tables])
    lines = [(t.mean(axis=0) - t.mean()) / (t.shape[1] * count) for t in tables]
    rows = sum(float(line @ line) for line in lines)
    if trials > 1:
        each = np.array([table.mean(axis=1).var(ddof=1) / trials for table in tables]) / count**2
        within = 0.0
        for table in tables:
            # Each row less its own mean over trials: what trials do not share.
            own = np.cov(table, bias=True) / table.shape[1]
            off = (own.sum() - np.trace(own)) / (trials * (trials - 1))
            within += max(0.0, np.trace(own) / trials - off) / trials / count**2
        spare = count * (trials - 1)
        squares = (each**2).sum() / (trials + 1)
        welch = each.sum() ** 2 / squares - 2 if squares > 0 else spare
        between, freedom = each.sum(), min(spare, welch) if spare >= 2 else 0.0
    else:
        between = level.var(ddof=1) / count if count > 1 else 0.0
        within, freedom = rows if count > 1 else 0.0, float(count - 1) if count > 2 else 0.0
    return Parts(level.mean(), lines, rows, max(0.0, rows - within), between, freedom)


def truths(scores, pairs, error=0.05):
    """All pairs of a family, with its own draws for how far apart they may lie together."""
    family = [parts(scores[a], scores[b]) for a, b in pairs]
    moving = [p for p in family if max(p.rows, p.shared + p.between) > 0]
    if len(moving) > 1:
        rng = np.random.default_rng(12345)
        infl = np.stack([np.concatenate(p.lines) for p in moving])
        total = np.array([max(p.rows, p.shared + p.between) for p in moving])
        part = np.array(
            [min(1.0, np.sqrt(p.shared / p.rows)) if p.freedom else 1.0 for p in moving]
        )
        gauss = rng.normal(size=(60_000, infl.shape[1])) if infl.shape[1] < 90 else None
        joint = (infl @ infl.T) * np.outer(part, part)
        if gauss is None:
            root = np.linalg.svd(joint)
            drawn = rng.normal(size=(60_000, len(moving))) * np.sqrt(root[1]) @ root[0].T
        else:
            drawn = gauss @ (infl * part[:, None]).T
        alone = np.sqrt(np.maximum(total - np.diag(joint), 0))
        drawn = (drawn + rng.normal(size=drawn.shape) * alone) / np.sqrt(total)
        together = 2 * stats.norm.sf(np.quantile(np.abs(drawn).max(axis=1), 1 - error))
        error = float(np.clip(together, error / len(moving), error))
    return {
        pair: Truth(p.mean, p.margin(error), bool(p.freedom))
        for pair, p in zip(pairs, family, strict=True)
    }


def told(label):
    """A label as it stands inside a sentence."""
    name, comma, rest = label.partition(", ")
    if not comma:
        return label
    return f"{name[:-1]}, {rest})" if name.endswith(")") else f"{name} ({rest})"


def number(words):
    return float(words.replace("−", "-"))


def check_claims(world, expected, stored):
    """A stored claim is what the oracle finds: estimate, interval, verdict, count."""
    for (subject, against), truth in expected.items():
        claim = next(c for c in stored if (c["subject"], c["against"]) == (subject, against))
        assert claim["mean"] == pytest.approx(truth.mean, abs=1e-9 + 1e-9 * abs(truth.mean))
        # Two accuracies, or two other values from 0 to 1, are no further apart than 1.
        most = 1.0 if claim["metric"] == "accuracy" else np.inf
        for end, side in (("low", -1), ("high", 1)):
            expected_end = np.clip(truth.mean + side * truth.margin, -most, most)
            assert claim[end] == pytest.approx(expected_end, abs=1e-9 + 0.06 * truth.margin)
            assert abs(claim[end]) <= most
        assert claim["comparisons"] == len(expected)
        if not truth.is_edge:
            assert claim["verdict"] == truth.verdict, (world.seed, subject, against)


@pytest.fixture(scope="module", params=range(SETS))
def world(request):
    return generate(request.param)


@pytest.fixture(scope="module")
def table_truths(world):
    pairs = [(name, world.against) for name in world.scores if name != world.against]
    return truths(world.scores, pairs)


def test_every_claim_in_the_file_is_recomputed(world, table_truths):
    rows = [row["difference"] for row in world.results["table"] if row["difference"]]
    check_claims(world, table_truths, rows)
    scores = dict(world.scores)
    for name, each in world.members.items():
        scores[f"{name}/members"] = {where: runs.mean(axis=0) for where, runs in each.items()}
    pairs = [(name, f"{name}/members") for name in world.members]
    check_claims(world, truths(scores, pairs), world.results["averages"])
    if "claims" in world.results["final"]:
        pairs = [(world.final, name) for name in simple(world)]
        check_claims(world, truths(world.scores, pairs), world.results["final"]["claims"])


def sentences(text):
    return [s for s in re.split(r"(?<=[.)])\s+(?=[A-Z])", text) if BANNED.search(s)]


COMPARISON = re.compile(
    r"(?P<size>[\d.]+) (?:points|of R2) (?P<verdict>better|worse) than (?P<other>.+?)"
    r"(?: on (?P<where>[^()]+?))? \((?P<low>[\d.]+) to (?P<high>[\d.]+)\)"
)


def check_sentences(world, text, extra=()):
    """Every better or worse in running text is a comparison whose verdict the oracle shares."""
    names = {told(LABELS[name][0]): name for name in world.scores}
    scale = 1 if world.metric == "r2" else 100
    families = [truths(world.scores, [(world.final, n) for n in simple(world)]), *extra]
    # A reference that is kept: differences of others, turned round.
    checked = 0
    for sentence in sentences(text):
        subject = told(LABELS[world.final][0])
        assert subject in sentence, sentence
        parsed = list(COMPARISON.finditer(sentence))
        assert len(parsed) == len(BANNED.findall(sentence)), sentence
        for match in parsed:
            other = names[match["other"]]
            scores = world.scores
            where = re.search(r"the held-out domain (\w+)", sentence)
            if where and len({d for d, _ in scores[other]}) > 1:
                scores = {
                    n: {c: v for c, v in own.items() if c[0] == where[1]}
                    for n, own in scores.items()
                }
                count = len({d for d, _ in world.scores[other]})
                found = [truths(scores, [(world.final, other)], 0.05 / count)]
            else:
                found = families
            options = [
                truth
                for family in found
                for pair, truth in family.items()
                if set(pair) == {world.final, other}
            ]
            sign = 1 if match["verdict"] == "better" else -1
            gap = float(
                np.mean(
                    [
                        np.mean([v.mean() for c, v in scores[world.final].items() if c[0] == d])
                        - np.mean([v.mean() for c, v in scores[other].items() if c[0] == d])
                        for d in dict.fromkeys(d for d, _ in scores[other])
                    ]
                )
            )
            assert sign * gap > 0
            assert number(match["size"]) == pytest.approx(scale * abs(gap), abs=0.06)
            # Beyond the margin of the family that it was said in, with the edge left open.
            assert any(t.testable and abs(t.mean) > 0.95 * t.margin for t in options), sentence
            checked += 1
    return checked


def test_every_verdict_in_the_headline_is_backed(world, table_truths):
    said = headline(read(world.results))
    check_sentences(world, " ".join((said.words, *said.details)), [table_truths])
    verdicts = [claim.verdict for claim in said.claims]
    leading = {"helped": "better", "hurt": "worse"}.get(said.verdict, said.verdict)
    assert said.verdict == "alone" or verdicts[0] == leading
    assert (said.verdict == "helped") == (bool(verdicts) and set(verdicts) == {"better"})
    assert (said.verdict == "hurt") == ("worse" in verdicts)


def test_every_verdict_in_the_markdown_table_is_backed(world, table_truths):
    lines = markdown_table(world.results).splitlines()
    head, rows = lines[0], lines[2:]
    assert not BANNED.search(head)
    assert len(rows) == len(world.scores)
    if len(table_truths) > 1:
        assert f"for {len(table_truths)} comparisons together" in head
    by_label = {LABELS[name][0]: name for name in world.scores}
    for line in rows:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        name = by_label[cells[0].removesuffix(" (oracle, not a method)")]
        if name == world.against:
            assert cells[2] == "(baseline)"
            continue
        truth = table_truths[(name, world.against)]
        said = BANNED.findall(line)
        if truth.is_edge:
            continue
        assert said == ([truth.verdict] if truth.verdict in ("better", "worse") else [])
        if truth.verdict == "not testable" and truth.margin > 0:
            assert "another seed may differ" in cells[2]
        if truth.verdict == "no difference" and truth.margin > 0:
            assert cells[2].startswith("no difference that this test could see")


def test_every_verdict_in_the_terminal_is_backed(world, table_truths):
    text = terminal_table(world.results)
    top, _, below = text.partition("\n\n")
    check_sentences(world, top.replace("\n", " "), [table_truths])
    assert not BANNED.search(below)
    for name in world.scores:
        label = LABELS[name][0]
        line = next(
            row
            for row in below.splitlines()
            if row[:2] in ("  ", "> ") and label.startswith(re.split(r"…|  ", row[2:])[0] or "-")
        )
        if name == world.against or table_truths[(name, world.against)].is_edge:
            continue
        gap = re.search(r"([=~ ])[-+]?[\d.e+]+ \([-\d.e+]+\.\.[-\d.e+]+\)", line)
        sign = {"no difference": "=", "not testable": "~"}
        assert gap[1] == sign.get(table_truths[(name, world.against)].verdict, " "), line


def test_every_diagnosis_follows_from_its_intervals(world):
    for entry in reasons(read(world.results)):
        for each in entry.all:
            assert not BANNED.search(each.words)
            where = (each.domain, each.trial)
            runs = world.members[each.protocol][where]
            gap = plain(world.scores[each.protocol][where] - runs.mean(axis=0))
            joined = np.maximum(runs.mean(axis=0), np.median(runs, axis=0))
            gain = plain(joined - runs.mean(axis=0))
            verdict = "ahead" if gap.low > 0 else "behind" if gap.high < 0 else "no difference"
            assert each.verdict == verdict
            if verdict == "ahead":
                assert each.findings == ()
                assert each.code in ("variance removed", "no cause found")
                assert (each.code == "variance removed") == (gain.low > 0)
            codes = [each.code, *(finding.code for finding in each.findings)]
            assert ("bias, not variance" in codes) == (verdict != "ahead" and gain.high < 0.03)
            assert "unrelated ancestor" not in codes
    shown = [line for line in terminal_table(world.results).splitlines() if " of " in line]
    if world.members:
        assert sum("(" in line for line in shown) >= len(world.members)


@pytest.mark.parametrize("seed", range(0, SETS, 9))
def test_every_verdict_on_the_page_is_backed(seed):
    """The page has the headline's, the table's and the averages' claims, and no other verdict."""
    world = generate(seed)
    text = re.sub(r"<(script|style|svg).*?</\1>", " ", render(read(world.results)), flags=re.S)
    text = re.sub(r"<[^>]+>", " ", text)
    stored = [row["difference"] for row in world.results["table"] if row["difference"]]
    averages = world.results["averages"]
    said = headline(read(world.results))
    top = len(BANNED.findall(" ".join((said.words, *said.details))))
    backed = [c for c in (*stored, *averages) if c["verdict"] in ("better", "worse")]
    assert len(BANNED.findall(text)) == top + len(backed)


def test_the_generated_sets_hold_every_verdict():
    """Otherwise the tests above would check less than they seem to."""
    verdicts, heads = set(), set()
    for seed in range(SETS):
        results = generate(seed).results
        verdicts |= {row["difference"]["verdict"] for row in results["table"] if row["difference"]}
        heads.add(headline(read(results)).verdict)
    assert verdicts == {"better", "worse", "no difference", "not testable"}
    assert heads >= {"helped", "hurt", "no difference", "not testable"}
