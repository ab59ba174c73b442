"""Check a certificate against files, tensors, sums and rows: what can be measured is not read."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stockpot.checkpoints import MemoryCheckpoint
from stockpot.errors import InputError
from stockpot.provenance import versions
from stockpot.reading import read_text
from stockpot.tangent.component import Component
from stockpot.tangent.composer import Weights
from stockpot.tangent.forgetting.anew import made_otherwise
from stockpot.tangent.forgetting.canonical import json_problem
from stockpot.tangent.forgetting.certificate import describe, outputs
from stockpot.tangent.forgetting.contents import (
    UNREADABLE,
    certificate_file,
    composition_problem,
    manifest,
    own_files,
    strangers,
)
from stockpot.tangent.forgetting.inventory import read_inventory
from stockpot.tangent.forgetting.removal import retrained, test_rows
from stockpot.tangent.forgetting.schema import Certificate, CertificateCheck, HeldCheck
from stockpot.tangent.forgetting.signing import read_signature
from stockpot.tangent.forgetting.tombstones import Tombstones
from stockpot.tangent.opened import open_run
from stockpot.tangent.run import load_components
from stockpot.tangent.summing import aggregate

# Fields that cannot be changed without a check failing: on their own, and beside the folder.
_ALONE = {"version", "recipe_digest", "kind", "against_composed"}
_FOLDER = {"composer", "base_digest", "head_digest", "kept", "weights", "after"}
_SKEW = datetime.timedelta(minutes=10)  # by which clocks of two machines may differ
_KINDS = {"delta": "delta", "average": "delta", "statistics": "statistics"}


@dataclass
class _Audit:
    """A certificate, what was checked of it, and the fields that were found to be so."""

    made: Certificate
    checks: list[HeldCheck] = field(default_factory=list)
    known: set[str] = field(default_factory=lambda: set(_ALONE))

    def add(self, words: str, problems: Sequence[str], known: Sequence[str] = ()) -> None:
        """Note a check that holds where there are no ``problems``, and then vouches for fields."""
        self.checks.append(HeldCheck(check=words, holds=not problems, why=tuple(problems)))
        self.known.update(() if problems else known)

    def unknown(self) -> list[str]:
        """Fields, dotted, that nothing was held against."""
        found = []
        for name, value in self.made.to_json().items():
            if value in (None, [], {}) or name in self.known or name == "digest":
                continue
            if name == "accuracy" and "accuracy.after.test" in self.known:
                found += ["accuracy.before", "accuracy.after.removed"]
            else:
                found.append(name)
        return found


def verify(
    certificate: str | Path,
    *,
    recipe: str | Path | None = None,
    run: str | Path | None = None,
    retrain: bool = False,
    signers: str | Path | None = None,
    render: Callable[[Certificate, str], str] | None = None,
    quiet: bool = False,
) -> CertificateCheck:
    """Check a certificate: alone, against the components in ``run``, and by training anew.

    Alone: its own hash, that it reports no difference, and its signature, by one of ``signers`` (an
    allowed-signers file of OpenSSH) where given. With ``run``: that nothing of what was removed is
    there under any name, that every file is of a known kind and is the one it lists, that the kept
    components are those it names, and that summing them gives the model it names. With ``recipe``
    also: the accuracy that is left, measured again. With ``retrain``: that components trained from
    nothing on the remaining data are bit for bit the kept ones. The removed data is needed nowhere.

    ``render``: what makes the page for people out of a certificate and its file's name
    (``stockpot.report.render_certificate``); with it the page beside the certificate is compared.

    Fields that were not held against anything are in ``words`` and named in ``notes``.
    Raises ``InputError`` for a file that is no certificate, or a check that lacks what it needs.
    """
    path = Path(certificate)
    made, whole = Certificate.load(path)
    audit = _Audit(made)
    changed = [] if whole else ["it was changed"]
    if whole and made.version == Certificate.current and not _is_plain(path, made):
        changed = ["it holds more than a certificate says, or says it in another form"]
    if path.name.startswith("forgotten-") and path.name != certificate_file(made):
        changed.append(f"it is {certificate_file(made)}, and lies there under another's name")
    audit.add("the certificate's hash fits its content", changed)
    audit.add(
        "it reports a model with the bits of one that never had the component", _wrong_claims(made)
    )
    if retrain and (recipe is None or run is None):
        raise InputError("training anew needs the recipe", hint="give --recipe and --run")
    if run is not None:
        _check_folder(audit, path, Path(run), None if recipe is None else Path(recipe))
        if retrain and recipe is not None:
            _check_training(audit, Path(recipe), Path(run), quiet)
    state = _check_signature(audit, path, None if signers is None else Path(signers))
    notes = _check_pages(audit, path, None if run is None else Path(run), render)
    words = audit.unknown()
    notes += [f"{state}: {', '.join(words)} are the issuer's word"] if words else []
    return CertificateCheck(
        holds=all(one.holds for one in audit.checks),
        checks=tuple(audit.checks),
        notes=tuple(notes),
        words=tuple(words),
    )


def _is_plain(path: Path, made: Certificate) -> bool:
    """Whether a file holds a certificate and no more, indented as it was written or on one line."""
    value = made.to_json()
    return not json_problem(path, value) or read_text(path) == json.dumps(value)


def _wrong_claims(made: Certificate) -> list[str]:
    """What an honest certificate of an exact removal cannot say."""
    problems = []
    kept = sorted(one.digest for one in made.kept)
    gap, again = made.against_composed, made.against_retrained
    if not made.exact:
        problems.append("it reports other bits")
    if gap.weights or gap.outputs:
        problems.append("it reports a difference to a model composed without it")
    if again is not None and (
        again.weights
        or again.outputs
        or not again.equal_components
        or sorted(again.digests) != kept
    ):
        problems.append("it reports a difference to components that were trained again")
    if set(kept) & {one.digest for one in made.removed}:
        problems.append("it names a component as removed and as kept")
    if made.recipe_digest or made.version not in (1, Certificate.current):
        problems.append("it has a version or a field that no certificate has")
    if made.version == 1 and made.issued is not None:
        problems.append("it has fields of a later version than its own")
    return problems + _wrong_time(made.issued)


def _wrong_time(issued: str | None) -> list[str]:
    """What no honest clock says."""
    if issued is None:
        return []
    try:
        moment = datetime.datetime.fromisoformat(issued)
        written = moment.astimezone(datetime.UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError):
        written = ""
    if written != issued:
        return [f"'{issued[:40]}' is no time as certificates have it"]
    if moment > datetime.datetime.now(datetime.UTC) + _SKEW:
        return [f"it was issued in the future, {issued}"]
    return []


def _check_pages(
    audit: _Audit, path: Path, run: Path | None, render: Callable[[Certificate, str], str] | None
) -> list[str]:
    """Hold pages for people against their certificates; a note for those that cannot be."""
    others = [] if run is None else sorted(run.glob("forgotten-*.json"))
    compared, problems, notes = False, [], []
    for certificate in dict.fromkeys([path, *others]):
        page = certificate.with_suffix(".html")
        if not page.is_file():
            continue
        made, _ = Certificate.load(certificate)
        if render is None or made.versions.get("stockpot") != versions()["stockpot"]:
            notes.append(f"{page.name} was not compared: read the certificate itself")
            continue
        compared = True
        if read_text(page) != render(made, certificate.name):
            problems.append(f"{page} was changed")
    if compared:
        audit.add("pages for people say what their certificates say", problems)
    return notes


def _check_folder(audit: _Audit, path: Path, run: Path, recipe: Path | None) -> None:
    made = audit.made
    if made.version == 1:
        raise InputError(
            f"{path} was written by an older stockpot, and lists neither files nor tombstones",
            hint="check it alone, or forget again for a new certificate",
        )
    found = load_components([run])
    kept = {one.digest for one in made.kept}
    rest = [component for component in found if component.digest in kept]
    aside = own_files(run, path)
    left, known = _left_over(made, run, found, rest, aside)
    names = ", ".join(one.name for one in made.removed)
    audit.add(f"what was removed ({names}) is not in the folder", left, known)
    own = sorted(map(describe, rest), key=lambda one: one.digest)
    named = sorted(made.kept, key=lambda one: one.digest)
    problems = [] if own == named else ["they are others, or described otherwise"]
    audit.add("the kept components are those it names", problems)
    if problems:
        return
    wrong, fields = _wrong_sum(made, rest), set(_FOLDER)
    if recipe is not None and not wrong and made.accuracy is not None:
        wrong = _wrong_accuracy(made, rest, recipe, run)
        fields.add("accuracy.after.test")
    audit.add("composing them gives the model it names", wrong, sorted(fields))


def _left_over(
    made: Certificate,
    run: Path,
    found: Sequence[Component],
    rest: Sequence[Component],
    aside: Sequence[Path],
) -> tuple[list[str], list[str]]:
    """What of the removed is still there, or may be; and the fields that were held against it."""
    stones = Tombstones.read(run)
    digests = {one.digest for one in made.removed}
    data = {one.data_fingerprint for one in made.removed}
    problems, known = [], []
    for component in found:
        if component.digest in digests:
            problems.append(f"component '{component.task}' is there")
        elif stones.find(component) or component.data_fingerprint in data:
            problems.append(f"component '{component.task}' is what was removed, renamed")
    problems += strangers(run, {component.task: component for component in rest}, aside)
    for entry in read_inventory(run):
        outside = run / entry.path
        if entry.kind != "composition" or not (
            Path(entry.path).is_absolute() and outside.is_file()
        ):
            continue
        if reason := composition_problem(Component.load(outside), rest):
            problems.append(f"{outside} {reason}")
    for gone in made.erased:
        if (
            gone.action == "deleted"
            and gone.kind != "registry entry"
            and (run / gone.path).exists()
        ):
            problems.append(f"{gone.path} is there again")
    if made.files is None:
        problems.append("it lists no files: it was written without deleting anything")
    else:
        problems += _other_files(dict(made.files), manifest(run, aside))
    problems += _without_stone(made, stones)
    known += ["files", "removed"]
    return problems, known


def _other_files(listed: dict[str, str], there: dict[str, str]) -> list[str]:
    found = [f"{path} is not among the files it lists" for path in sorted(set(there) - set(listed))]
    found += [f"{path} is missing" for path in sorted(set(listed) - set(there))]
    both = sorted(set(listed) & set(there))
    return found + [f"{path} was changed since" for path in both if listed[path] != there[path]]


def _without_stone(made: Certificate, stones: Tombstones) -> list[str]:
    """Each removed component has a tombstone of its name, digest, data and day."""
    return [
        f"'{one.name}' has no tombstone in the folder that fits it"
        for one in made.removed
        if not any(
            stone.name == one.name
            and stone.component == stone.of(one.digest)
            and stone.shard == stone.of(one.data_fingerprint)
            and stone.about == stone.of(f"{one.examples} {sorted(one.classes)}")
            and (made.issued or "").startswith(stone.forgotten)
            for stone in stones.stones
        )
    ]


def _wrong_sum(made: Certificate, rest: Sequence[Component]) -> list[str]:
    """Sum the kept components as the certificate says, and hold everything it says against it."""
    problems = [
        f"{what} is {stated[:12]}, theirs is {own[:12]}"
        for component in rest
        for what, stated, own in (
            ("its base", made.base_digest, component.base_digest),
            ("its head", made.head_digest, component.head_digest),
            ("its composer", _KINDS.get(made.composer, made.composer), component.kind),
        )
        if stated != own
    ]
    try:
        found = MemoryCheckpoint(aggregate(rest, _weights(made, rest)).tensors).digest()
    except InputError as error:
        return [*sorted(set(problems)), error.message]
    if found != made.after:
        problems.append(f"their sum is {found[:12]}, it says {made.after[:12]}")
    return sorted(set(problems))


def _weights(made: Certificate, rest: Sequence[Component]) -> Weights:
    """The weights that a certificate names, in the order of ``rest``."""
    if isinstance(made.weights, str):
        return made.weights  # type: ignore[return-value]
    by_digest = {one.digest: w for one, w in zip(made.kept, made.weights, strict=False)}
    return [by_digest.get(component.digest, 0.0) for component in rest]


def _wrong_accuracy(
    made: Certificate, rest: Sequence[Component], recipe: Path, run: Path
) -> list[str]:
    """Measure what is left on the test rows of what is kept; one row may round the other way."""
    assert made.accuracy is not None
    opened = open_run(recipe, run)
    composed = opened.composer.compose(rest, _weights(made, rest))
    rows = test_rows(opened, [one.name for one in made.removed if made.examples is None])
    right = outputs(composed, opened.feed, rows).argmax(1) == opened.task.labels[rows]
    stated, own = made.accuracy.after.test, float(right.mean())
    if abs(stated - own) * len(rows) < 1.5:
        return []
    return [f"its accuracy on test rows is {own:.1%}, it says {stated:.1%}"]


def _check_training(audit: _Audit, recipe: Path, run: Path, quiet: bool) -> None:
    kept = audit.made.kept
    stones = Tombstones.read(run)
    with retrained(recipe, run, [one.name for one in kept], stones, quiet=quiet) as done:
        again = load_components(done.components)
        try:
            otherwise = made_otherwise(run, done.folder, recipe)
        except UNREADABLE as error:
            otherwise = [f"it cannot be read: {getattr(error, 'message', error)}"]
    same = sorted(one.digest for one in again) == sorted(one.digest for one in kept)
    problems = [] if same else ["they have other bits: their data or the machine is another"]
    words = "training the rest anew gives the same components, bit by bit"
    audit.add(words, problems, ["against_retrained"])
    audit.add("the folder has what training leaves, and no more", otherwise)


def _check_signature(audit: _Audit, path: Path, signers: Path | None) -> str:
    """Check the signature, if there is one or has to be; what to call the certificate then."""
    found = read_signature(path, signers)
    if signers is not None:
        problems = [] if found is not None and found.valid else ["it is not signed by one of them"]
        audit.add(f"it is signed by one of {signers}", problems)
        return f"signed by {found.by}" if found is not None and found.valid else "unsigned"
    if found is None:
        return "unsigned"
    audit.add("the signature fits the certificate", [] if found.valid else [found.by])
    return f"signed by a key that nobody vouches for here ({found.by}; give --signers)"
