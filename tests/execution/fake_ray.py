"""As much of Ray as the backend and the conductor use, in this process: tasks run when waited for.

For machines without Ray, and for what a real cluster does only by accident. ``losses`` says how
often the next tasks' machine is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any


class RayError(Exception):
    pass


class NodeDiedError(RayError):
    pass


class FakeRay(ModuleType):
    """Put it into ``sys.modules["ray"]``."""

    def __init__(self, *, cpus: float = 2, gpus: float = 0, running: bool = True) -> None:
        super().__init__("ray")
        self.exceptions = SimpleNamespace(RayError=RayError)
        self.node = {"Alive": True, "Resources": {"CPU": cpus, "GPU": gpus}}
        self.running = running
        self.addresses: list[str] = []
        self.options: list[dict[str, Any]] = []
        self.cancelled: list[Any] = []
        self.killed: list[Any] = []
        self.losses = 0
        self.connected = False

    def init(self, address: str, **more: Any) -> None:
        self.addresses.append(address)
        if address == "auto" and not self.running:
            raise ConnectionError("no cluster here")
        if address.startswith("nowhere"):
            raise ConnectionError("no answer\nand much more")
        self.connected = True

    def is_initialized(self) -> bool:
        return self.connected

    def shutdown(self) -> None:
        self.connected = False

    def cluster_resources(self) -> dict[str, float]:
        return self.node["Resources"]  # type: ignore[return-value]

    def nodes(self) -> list[Any]:
        return [self.node]

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(gcs_address=None)

    def remote(self, target: Any) -> Any:
        return _Target(self, target)

    def wait(self, tasks: list[Any], *, num_returns: int, timeout: float) -> Any:
        able = [task for task in tasks if self._has_room(task)]
        return able[:1], [task for task in tasks if task not in able[:1]]

    def _has_room(self, task: Any) -> bool:
        there: Any = self.node["Resources"]
        wanted = task.options
        return wanted["num_cpus"] <= there["CPU"] and wanted["num_gpus"] <= there["GPU"]

    def get(self, task: Any) -> Any:
        while self.losses:
            self.losses -= 1
            if not task.options["max_retries"]:
                raise NodeDiedError("the node is gone")
            task.options["max_retries"] -= 1
        return task.call()

    def cancel(self, task: Any, *, force: bool) -> None:
        self.cancelled.append(task)

    def kill(self, actor: Any) -> None:
        self.killed.append(actor)


class _Target:
    def __init__(self, ray: FakeRay, target: Any) -> None:
        self._ray, self._target = ray, target
        self._options: dict[str, Any] = {}

    def options(self, **options: Any) -> _Target:
        self._options = options
        self._ray.options.append(options)
        return self

    def remote(self, *arguments: Any) -> Any:
        if isinstance(self._target, type):
            return _Actor(self._target(*arguments))
        return _Task(lambda: self._target(*arguments), dict(self._options))


class _Task:
    def __init__(self, call: Callable[[], Any], options: dict[str, Any]) -> None:
        self.call, self.options = call, options


class _Actor:
    def __init__(self, made: Any) -> None:
        self._made = made

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._made, name)

        def remote(*arguments: Any) -> Any:
            return _Task(lambda: method(*arguments), {"max_retries": 0})

        return SimpleNamespace(remote=remote)
