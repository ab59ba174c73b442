"""What must not come back: salted hashes of the rows and the component that were forgotten.

Nobody can read from a tombstone what it stands for; whoever has a row, a shard or a component can
ask whether it is the one.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stockpot.errors import InputError
from stockpot.files import salted, write_json
from stockpot.reading import read_json
from stockpot.results import ResultPart, VerbResults

if TYPE_CHECKING:
    from stockpot.tangent.component import Component
    from stockpot.tangent.shards import Division

TOMBSTONES = "tombstones.json"
_HASH = re.compile("[0-9a-f]{32}")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


class Tombstone(ResultPart):
    """One thing that was forgotten, by hashes that are keyed with ``salt`` (hex).

    ``component``: of the component's digest; ``tensors``: of its tensors' digest; ``shard``: of its
    data fingerprint; ``about``: of the number of its examples and its classes; ``rows``: of the
    rows it was made of. ``examples``: whether only some rows of a component went.
    """

    name: str
    salt: str
    forgotten: str
    component: str
    tensors: str
    shard: str
    about: str
    rows: tuple[str, ...]
    examples: bool = False

    def of(self, text: str) -> str:
        """The hash of ``text`` under this stone's salt."""
        return salted(self.salt, text)


class TombstonesFile(VerbResults):
    """The file of all that was forgotten in one folder."""

    tombstones: tuple[Tombstone, ...]


@dataclass(frozen=True)
class Returned:
    """Rows of a shard that were forgotten, and are among the data again."""

    name: str
    rows: int
    total: int
    stone: Tombstone


@dataclass(frozen=True)
class Tombstones:
    """All that was forgotten in one folder; none is false."""

    stones: tuple[Tombstone, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.stones)

    @classmethod
    def read(cls, folder: Path) -> Tombstones:
        """Those of a folder. Raises ``InputError`` for a damaged file."""
        path = folder / TOMBSTONES
        try:
            value = read_json(path)
        except FileNotFoundError:
            return cls()
        return cls(TombstonesFile.read(value, f"the contents of {path}").tombstones)

    def write(self, folder: Path) -> None:
        """Put them in ``folder``, whole or not at all."""
        write_json(folder / TOMBSTONES, self.file.to_json())

    @property
    def file(self) -> TombstonesFile:
        """What ``write`` writes."""
        return TombstonesFile(version=1, tombstones=self.stones)

    def problem(self) -> str:
        """Why these are no tombstones as ``make_tombstone`` makes them; empty where they are."""
        for stone in self.stones:
            hashes = (stone.salt, stone.component, stone.tensors, stone.shard, stone.about)
            rows = list(stone.rows)
            hexadecimal = all(_HASH.fullmatch(text) for text in (*hashes, *rows))
            if not hexadecimal or rows != sorted(set(rows)) or not _DAY.fullmatch(stone.forgotten):
                return f"holds something else than hashes for '{stone.name[:80]}'"
        return ""

    def mask(self, hashes: np.ndarray) -> np.ndarray:
        """Which rows (N,) nothing may be made of, from their hashes."""
        found = np.zeros(len(hashes), dtype=bool)
        for stone in self.stones:
            known = set(stone.rows)
            found |= np.array([stone.of(str(content)) in known for content in hashes], dtype=bool)
        return found

    def returning(self, division: Division, only: Sequence[str]) -> list[Returned]:
        """Shards of a division (of those in ``only``, if any) that hold forgotten rows."""
        back = []
        for stone in self.stones:
            mask = Tombstones((stone,)).mask(division.hashes)
            for shard in division.shards:
                rows = np.concatenate([shard.train, shard.validation])
                if mask[rows].any() and (not only or shard.name in only):
                    back.append(Returned(shard.name, int(mask[rows].sum()), len(rows), stone))
        return back

    def without(self, back: Iterable[Returned]) -> Tombstones:
        """The others, after what these stand for was taken back."""
        salts = {one.stone.salt for one in back}
        return Tombstones(tuple(stone for stone in self.stones if stone.salt not in salts))

    def check(self, components: Iterable[Component], where: Path) -> None:
        """``InputError`` for a component that was forgotten, under any name, or one summed of it.

        ``where``: the folder of these tombstones.
        """
        for component in components:
            stone = self.find(component)
            if stone is not None:
                raise InputError(
                    f"component '{component.task}' was forgotten on {stone.forgotten} as "
                    f"'{stone.name}' ({where / TOMBSTONES})",
                    hint="leave it out, or take it back with --readmit",
                )

    def find(self, component: Component) -> Tombstone | None:
        """The tombstone of a component or of one of the terms it was summed of."""
        from stockpot.tangent.lineage import content_digest
        from stockpot.tangent.summing import terms_of

        terms = {str(term["digest"]) for term in terms_of(component)}
        tensors = content_digest(component)
        for stone in self.stones:
            known = (
                stone.of(tensors) == stone.tensors
                or stone.of(component.data_fingerprint) == stone.shard
                or any(stone.of(one) == stone.component for one in {component.digest, *terms})
            )
            if known:
                return stone
        return None


def make_tombstone(
    component: Component,
    date: str,
    rows: Iterable[str],
    *,
    examples: bool = False,
) -> Tombstone:
    """The tombstone of a component, or of some ``examples`` of it, whose hashes are ``rows``."""
    from stockpot.tangent.lineage import content_digest

    salt = secrets.token_hex(16)
    return Tombstone(
        name=component.task,
        salt=salt,
        forgotten=date,
        component=salted(salt, component.digest),
        tensors=salted(salt, content_digest(component)),
        shard=salted(salt, component.data_fingerprint),
        about=salted(salt, f"{component.examples} {sorted(component.classes)}"),
        rows=tuple(sorted(salted(salt, content) for content in rows)),
        examples=examples,
    )


def refusal(back: Sequence[Returned], path: Path) -> InputError:
    """What to say where forgotten rows are among the data again."""
    one = back[0]
    return InputError(
        f"component '{one.name}': {one.rows} of its {one.total} rows were forgotten on "
        f"{one.stone.forgotten} ({path})",
        hint="remove them from the data, train the others with --only, or take them back with "
        "--readmit",
    )
