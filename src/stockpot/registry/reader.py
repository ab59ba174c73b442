"""A model of a registry as a checkpoint: tensors are fetched and decoded when they are read."""

from __future__ import annotations

from collections.abc import Callable

from stockpot.checkpoints import Checkpoint
from stockpot.checkpoints.checkpoint import join_digests
from stockpot.checkpoints.dtypes import STORAGE, Array
from stockpot.registry.manifest import Manifest


class RegistryCheckpoint(Checkpoint):
    """The main weights of a model. ``fetch`` gives the decoded bytes of a blob by name.

    Each reading of a tensor decodes it anew; nothing is kept.
    """

    def __init__(self, manifest: Manifest, fetch: Callable[[str], Array]) -> None:
        self.manifest = manifest
        self._stored = manifest.tensors()
        self._fetch = fetch
        infos = {name: stored.info for name, stored in self._stored.items()}
        super().__init__(infos, label=manifest.name)

    def raw(self, name: str) -> Array:
        info = self.info(name)
        return self._fetch(self._stored[name].blob).view(STORAGE[info.dtype])

    def tensor_digest(self, name: str) -> bytes:
        """A blob's name is the digest of the tensor: nothing has to be read."""
        return bytes.fromhex(self._stored[name].blob)

    def known_digest(self) -> str | None:
        names = {name: self.tensor_digest(name) for name in self.tensors}
        return join_digests(self.tensors, names)
