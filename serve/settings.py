"""The server's settings: the `KRISHI_` variables of its environment."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, AliasGenerator, BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from workbench.errors import WorkbenchError
from workbench.registry.manifest import check_alias, check_name
from workbench.registry.semver import parse

OWN_PATHS = ("predict", "model", "healthz", "readyz", "metrics", "docs", "openapi.json", "v1", "v2")


def variable(field: str) -> str:
    """The environment variable of a field: its name without the unit, and `class` for `device_class`."""
    return f"KRISHI_{field.removesuffix('_s').removeprefix('device_').upper()}"


def _validator(check: Callable[[str], object]) -> AfterValidator:
    """`check` as a validator: pydantic wants ValueError to say which field is wrong."""

    def validate(text: str) -> str:
        try:
            check(text)
        except WorkbenchError as error:
            raise ValueError(error.message) from None
        return text

    return AfterValidator(validate)


def _clean_key(text: str) -> str:
    key = text.strip()  # HTTP strips the values of headers
    # A key that fits no header could never be sent, and an empty one would only look like protection.
    if not (key.isascii() and key.isprintable() and 8 <= len(key) <= 256):
        raise ValueError(
            "an API key is 8 to 256 printable ASCII characters; `openssl rand -hex 32` makes one"
        )
    return key


def _split(given: object) -> object:
    return tuple(re.findall(r"[^\s,]+", given)) if isinstance(given, str) else given


def _origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    for origin in origins:
        if origin not in ("*", "null") and origin != (expected := _as_sent(origin)):
            raise ValueError(f"`{origin}` is not an origin as browsers send it: {expected}")
    if "*" in origins and len(origins) > 1:
        raise ValueError("`*` allows every origin: give it alone, or name the origins without it")
    return origins


def _as_sent(origin: str) -> str:
    """The origin as a browser writes it: small letters, ASCII, no default port, no path."""
    example = "write it like https://leaves.example.org, with a port where it is not the usual one"
    try:
        parts = urlsplit(origin)
        host = (parts.hostname or "").encode("idna").decode()
        port = "" if parts.port in (None, {"http": 80, "https": 443}.get(parts.scheme)) else f":{parts.port}"
    except ValueError:
        return example
    if not parts.scheme or not re.fullmatch(r"[a-z0-9._-]+|[0-9a-f:.]+", host):
        return example
    sent = f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{port}"
    return sent if sent == origin else f"write `{sent}`"


def _root_path(text: str) -> str:
    path = f"/{text.strip('/')}".removesuffix("/")
    if path and not re.fullmatch(r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+", path):
        raise ValueError(
            "a root path is like `/leaves`: letters, digits, `-`, `_`, `.` and `~` between slashes"
        )
    if path.split("/")[1:2] and path.split("/")[1] in OWN_PATHS:
        raise ValueError(f"`{path}` begins like a path of the server itself: choose another")
    return path


Seconds = Annotated[float, Field(ge=0, le=86400, allow_inf_nan=False)]
Pause = Annotated[float, Field(ge=0.01, le=86400, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Bytes = Annotated[int, Field(gt=0)]
VersionText = Annotated[str, _validator(parse)]


class Settings(BaseSettings):
    """Which model to serve, and within which limits. Arguments come before the environment."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=AliasGenerator(validation_alias=variable),
        populate_by_name=True,
        case_sensitive=True,
        env_ignore_empty=True,
        hide_input_in_errors=True,
    )

    registry: Path = Field(Path("registry"), description="Folder of the published models.")
    model: Annotated[str, _validator(lambda name: check_name(name, "a model"))] | None = Field(
        None, description="Name of the model. Without it: the only one in the registry."
    )
    alias: Annotated[str, _validator(lambda name: check_alias(name))] = Field(
        "production", description="Alias whose version is served, wherever it moves."
    )
    device_class: Annotated[str, _validator(lambda name: check_name(name, "a class of devices"))] | None = (
        Field(
            None,
            description="Class of devices that this machine is of: `alias@class` is followed if it exists.",
        )
    )
    pin: VersionText | None = Field(None, description="Version to serve instead; no alias is followed.")
    workers: int = Field(
        1,
        ge=1,
        le=64,  # each loads the model: a typo must not start a thousand
        description="Server processes behind the port, at most 64. One uses all processors already.",
    )
    shadow: VersionText | None = Field(
        None, description="Candidate to run on sampled photos; its answers are not returned."
    )
    sample: Share = Field(0.1, description="Share of the photos that the shadow gets, 0 to 1.")
    canary: VersionText | None = Field(None, description="Candidate that answers a share of the photos.")
    weight: Share = Field(0.05, description="Share of the photos that the canary answers, 0 to 1.")
    any_runtime: bool = Field(
        False,
        description="Serve a version that pins another version of its runtime than the one installed. Its "
        "golden answers are checked either way.",
    )
    abstain: bool = Field(
        True, description="Whether answers are called uncertain by the version's own rule; `off`: none is."
    )
    max_body_bytes: Bytes = Field(10_000_000, description="Largest body with one photo, form included.")
    max_batch_bytes: Bytes = Field(50_000_000, description="Largest body of a batch or of tensors.")
    max_buffered_bytes: Bytes = Field(
        256_000_000, description="Memory for the bodies of all requests together; beyond it: 429."
    )
    body_timeout_s: Seconds = Field(
        30.0, description="Seconds from the first byte of a body to its last; beyond them: 408."
    )
    queue_budget_s: Seconds = Field(
        1.0, description="Seconds a photo may be expected to wait for a thread; beyond them: 429."
    )
    deadline_s: Seconds = Field(
        5.0, description="Seconds from the last byte of a body to the start of work on it; beyond them: 504."
    )
    drain_delay_s: Seconds = Field(
        1.0, description="Seconds between SIGTERM and closing the port, for load balancers to see `/readyz`."
    )
    drain_timeout_s: Seconds = Field(
        30.0, description="Seconds that requests in flight are then given to finish."
    )
    keep_alive_s: Seconds = Field(
        75.0, description="Seconds that an idle connection stays open; longer than a load balancer keeps it."
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split), AfterValidator(_origins)] = (
        Field(
            (),
            description="Origins whose web pages may call the server, separated by commas, or `*`. "
            "Without them: none but its own page.",
        )
    )
    root_path: Annotated[str, AfterValidator(_root_path)] = Field(
        "", description="Path below which a proxy publishes the server, whether or not it takes it away."
    )
    retry_s: Pause = Field(
        5.0,
        description="Seconds before a model that could not be loaded is tried again, 0.01 or more. Beside "
        "one that serves they double each time, up to 5 minutes.",
    )
    watch_s: Pause = Field(1.0, description="Seconds between two looks at the alias, 0.01 or more.")
    api_key: Annotated[str, AfterValidator(_clean_key)] | None = Field(
        None, repr=False, description="Key that clients must send. Without it every request is answered."
    )
    api_key_file: Path | None = Field(
        None, description="File that holds the key instead, as secrets are mounted."
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one and logs it.")

    @classmethod
    def from_environment(cls, **values: Any) -> "Settings":
        """Read the variables; `values` by field name come before them. Reads `api_key_file` too.

        Raises WorkbenchError naming the variable that cannot be used.
        """
        try:
            settings = cls(**values)
            if settings.api_key_file is None:
                return settings
            if settings.api_key is not None:
                raise WorkbenchError(
                    "KRISHI_API_KEY and KRISHI_API_KEY_FILE are both set", hint="set one of them"
                )
            key = _read_key(settings.api_key_file)
            return cls(**values | {"api_key": key, "api_key_file": None})
        except ValidationError as error:
            raise _explain(error) from None


def _read_key(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise WorkbenchError(
            f"KRISHI_API_KEY_FILE: {file} cannot be read: {error}",
            hint="a text file with the key, which this user may read",
        ) from error


def _explain(error: ValidationError) -> WorkbenchError:
    """The first problem as a sentence. The value of a key is never repeated."""
    problem = error.errors()[0]
    name = str(problem["loc"][0])
    (field,) = [field for field in Settings.model_fields if name in (field, variable(field))]
    described = Settings.model_fields[field]
    value = "" if field == "api_key" else f"={problem['input']!r}"
    reason = problem["msg"].removeprefix("Value error, ")
    default = "" if described.default in (None, "", ()) else f" Default: {described.default}."
    return WorkbenchError(f"{name}{value}: {reason}", hint=f"{described.description}{default}")
