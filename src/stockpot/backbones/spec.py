"""What a recipe says about its backbone, as data; importing this needs no torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from stockpot.declared import Declared


class BackboneSpec(Declared):
    """A pretrained feature extractor and how it is to be used."""

    kind: Literal["timm", "transformers", "function"] = Field(
        description="where the architecture comes from"
    )
    name: str = Field(
        min_length=1,
        description="a timm name or folder, a transformers folder or hub id, "
        "or a function: 'package.module:function' or 'file.py:function'",
    )
    weights: str | None = Field(
        None, description="a weights file or folder, loaded over what the name brings"
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="keyword arguments of the function that builds the model"
    )
    pooling: Literal["auto", "mean", "cls", "pooler"] = Field(
        "auto",
        description="how token vectors become one vector (transformers): their mean, the first, or "
        "the model's own pooled output; auto: as the base's sentence-transformers files say, else "
        "the one that the library's classification class reads, else the mean",
    )
    max_length: int = Field(64, ge=2, le=8192, description="longest text, in tokens")
    image_size: int | None = Field(None, ge=8, le=4096, description="resize images to this square")
    mean: tuple[float, float, float] | None = Field(
        None, description="per channel, for pixels in [0, 1]; default: the model's own"
    )
    std: tuple[float, float, float] | None = Field(None, description="as mean")
    batchnorm: Literal["frozen", "reestimate"] = Field(
        "frozen", description="running statistics stay the base's, or are estimated anew"
    )
    freeze_below: str | None = Field(
        None,
        description="a module's name: whatever runs before it is frozen, and can be cached",
    )
