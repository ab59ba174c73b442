"""The certificate of a removal, as types; with the reports it needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from stockpot.errors import InputError
from stockpot.files import digest, write_json
from stockpot.reading import parse_json, read_bytes
from stockpot.results import ResultPart, VerbResults

KIND = "forgetting-certificate"


class Gap(ResultPart):
    """Largest difference between two models: of a tensor's numbers, and of outputs, where there
    are rows to give outputs for.

    ``equal_bits`` is true where not a single bit differs in any tensor.
    """

    weights: float
    outputs: float | None
    equal_bits: bool


class RetrainedGap(Gap):
    """The same to components trained anew; ``digests`` are theirs."""

    digests: tuple[str, ...]
    equal_components: bool


class CertifiedComponent(ResultPart):
    """A component that is named in a certificate."""

    name: str
    digest: str
    data_fingerprint: str
    classes: tuple[str, ...]
    examples: int


class Residue(ResultPart):
    """What subtracting would have left: the largest difference, and how many numbers differ."""

    largest: float
    numbers: int


class Auc(ResultPart):
    """Area under the ROC curve with a confidence interval, and how many of each kind there were."""

    value: float
    low: float
    high: float
    members: int
    others: int


class Membership(ResultPart):
    """Telling members from test rows of the same classes, before and after the removal.

    ``kept_earlier``: the attack of somebody who kept the model from before the removal and compares
    it with the one after: the margin before minus the margin after. It is no fault of the model
    after: copies of the earlier model are what it warns of.
    """

    attack: str
    level: float
    before: Auc
    after: Auc
    kept_earlier: Auc | None = None


class Accuracy(ResultPart):
    """Shares of right outputs: on the rows of what is removed, and on test rows."""

    removed: float
    test: float


class Accuracies(ResultPart):
    """Before and after the removal."""

    before: Accuracy
    after: Accuracy


class Times(ResultPart):
    """Seconds of removing, and of training the rest, where that is known."""

    forgetting: float
    training_the_rest: float | None


class Erased(ResultPart):
    """Something that held what was derived from the removed data, and what became of it.

    ``path``: in the run's folder, or absolute; ``kind``: component, features, composition, ...;
    ``action``: "deleted", "rebuilt" without it, or "missing": it was no longer there.
    """

    path: str
    kind: str
    action: str


class SharedRows(ResultPart):
    """How many rows stand under several names, a removed and a kept one among them."""

    names: tuple[str, ...]
    rows: int


class RemovedExamples(ResultPart):
    """Single examples that went from a component, which was made again from its other rows.

    ``component``: its name; ``count``: how many went; ``was``: the digest of the component that
    held them; ``seconds``: what making it again took.
    """

    component: str
    count: int
    was: str
    seconds: float


class Certificate(VerbResults):
    """What is left of the components ``removed`` in a model of those ``kept``.

    ``weights``: the rule, or the weights of the kept ones; ``before``, ``after``: digests of both
    models (of the sums, for statistics); ``models``: their ids in a registry; ``title``: the
    recipe's. ``issued``: when, ISO 8601. ``erased``: what was deleted or made again; ``files``:
    what was left in the run's folder, SHA-256 by path; ``outside``: what has to be done by people.
    ``examples``: where single examples went, and not a whole component.
    """

    current: ClassVar[int] = 2

    kind: Literal["forgetting-certificate"]
    composer: str
    base_digest: str
    head_digest: str
    removed: tuple[CertifiedComponent, ...]
    kept: tuple[CertifiedComponent, ...]
    weights: str | tuple[float, ...]
    before: str
    after: str
    against_composed: Gap
    against_retrained: RetrainedGap | None
    residue_of_subtracting: Residue
    membership: Membership | None
    accuracy: Accuracies | None
    seconds: Times | None
    versions: Mapping[str, str]
    models: Mapping[str, str] | None = None
    title: str | None = None
    issued: str | None = None
    erased: tuple[Erased, ...] = ()
    files: Mapping[str, str] | None = None
    outside: tuple[str, ...] = ()
    shared: tuple[SharedRows, ...] = ()
    examples: RemovedExamples | None = None

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the rest."""
        return digest(super().to_json())

    @property
    def exact(self) -> bool:
        """Whether the model left over has the bits of one that never had the component."""
        gaps = [self.against_composed, self.against_retrained]
        return all(gap.equal_bits for gap in gaps if gap is not None)

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "digest": self.digest}

    def save(self, path: str | Path) -> Path:
        """Write as JSON, whole or not at all; returns the path."""
        write_json(Path(path), self.to_json())
        return Path(path)

    @classmethod
    def load(cls, path: Path) -> tuple[Self, bool]:
        """What stands in a file, and whether its digest is that of its content.

        Raises ``InputError`` for anything but a certificate.
        """
        try:
            value = parse_json(read_bytes(path))
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read as a certificate: {error}") from error
        if not isinstance(value, dict) or value.get("kind") != KIND or "digest" not in value:
            raise InputError(
                f"{path} is no forgetting certificate", hint="`stockpot tangent forget` writes one"
            )
        content = {key: part for key, part in value.items() if key != "digest"}
        return cls.read(value, f"the contents of {path}"), value["digest"] == digest(content)

    @classmethod
    def read(cls, value: Mapping[str, Any] | Self, source: str = "this certificate") -> Self:
        if isinstance(value, Mapping):
            value = {key: part for key, part in value.items() if key != "digest"}
        return super().read(value, source)


class HeldCheck(ResultPart):
    """One thing that was checked, in words, whether it is so, and if not, why not."""

    check: str
    holds: bool
    why: tuple[str, ...] = ()


class CertificateCheck(ResultPart):
    """What checking a certificate came to, and whether all of it holds.

    ``words``: fields that were held against nothing; ``notes``: whose word they are.
    """

    holds: bool
    checks: tuple[HeldCheck, ...]
    notes: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
