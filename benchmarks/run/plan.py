"""Plans: entries, methods and seeds of one run, read from and written to `plan.toml`."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from zoo.errors import UsageError, did_you_mean, spelled

__all__ = ["PLAN_FILE", "Plan", "make_plan", "planned", "read_plan", "refuse_file"]

PLAN_FILE = "plan.toml"
TARGET_ACCEPT = 0.8  # the default of `benchmarks.run_nuts`
LATER = ("repair", "reweight", "trust")  # switches of later versions
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class Plan(BaseModel):
    """Everything that determines the content of a run, but not the number of processes.

    Attributes:
        version: version of the file format.
        name: short word for the default folder.
        entries: entry names with options as on the command line, or paths of model files.
        guides: family names, among them `all` for the families each entry lists, or only `all`.
        nuts: whether NUTS is a row of its own.
        engine: implementation of NUTS.
        target_accept: acceptance rate to which NUTS adapts its step size, in (0, 1).
        seeds: seeds of the inference, one row per seed.
        data_seed: seed of generated data; only 0 has stored references.
        restarts: independent starts per fit.
        quick: smaller budgets, the same gates.
        compile: `auto`, `on` or `off`.
        device: where fits are optimized, `cpu` or `cuda`; chains and references stay on the CPU.
        repair: a row of tempered SMC, or of short chains, that begins from the guides.
        reweight: beside every family a row of its draws, reweighted (`benchmarks.reweight`).
        trust: where neither a truth is known nor NUTS runs, estimate one by such a row, and assess
            every fit (`benchmarks.assess`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)

    version: Literal[1] = 1
    name: Annotated[str, Field(pattern=r"[a-z][a-z0-9_]{0,63}")] = "compare"
    entries: Annotated[tuple[str, ...], Field(min_length=1)]
    guides: tuple[str, ...] | Literal["all"] = "all"
    nuts: bool = True
    engine: Literal["nutpie", "pyro"] = "nutpie"
    target_accept: Annotated[float, Field(gt=0, lt=1)] = TARGET_ACCEPT
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    data_seed: Seed = 0
    restarts: Annotated[int, Field(ge=1, le=1000)] = 1
    quick: bool = False
    compile: Literal["auto", "on", "off"] = "auto"
    device: Literal["cpu", "cuda"] = "cpu"
    repair: bool = False
    reweight: bool = False
    trust: bool = True

    def digest(self) -> str:
        """Return the SHA-256 of the plan's canonical JSON."""
        fields = self.model_dump(mode="json")
        for name in (*LATER, "target_accept"):  # folders of earlier versions keep their names
            if fields[name] == type(self).model_fields[name].default:
                del fields[name]
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

    def families(self, listed: Sequence[str]) -> tuple[str, ...]:
        """Return the families of an entry that lists these, `all` in their place."""
        asked = ("all",) if self.guides == "all" else self.guides
        return tuple(dict.fromkeys(f for g in asked for f in (listed if g == "all" else (g,))))

    def extended(self, other: Plan) -> Plan:
        """Return this plan with the families, seeds and NUTS row of another one added.

        Raises:
            UsageError: the other one differs in something else; the message says in what.
        """
        pairs = {
            name: (getattr(self, name), getattr(other, name))
            for name in type(self).model_fields
            if name not in ("guides", "seeds", "nuts", *LATER, "name", "version")
        }
        found = [
            f"{name.replace('_', ' ')} is {_shown(mine)} in the folder and {_shown(theirs)} here"
            for name, (mine, theirs) in pairs.items()
            if mine != theirs
        ]
        if found:
            raise UsageError(
                "a run takes further families and seeds, each of which is combined with all"
                f" others, and no other change: {'; '.join(found)}"
            )
        asked = [("all",) if p.guides == "all" else p.guides for p in (self, other)]
        both = tuple(dict.fromkeys([*asked[0], *asked[1]]))
        added: dict[str, Any] = {
            "guides": "all" if both == ("all",) else both,
            "seeds": tuple(dict.fromkeys([*self.seeds, *other.seeds])),
            "nuts": self.nuts or other.nuts,
            **{name: getattr(self, name) or getattr(other, name) for name in LATER},
        }
        return self.model_copy(update=added)

    def default_folder(self) -> Path:
        """Return `out/<entries>-<hash>`: the same request gives the same folder and resumes it."""
        stems = [
            re.sub(r"[^A-Za-z0-9_]+", "-", Path(e).stem if e.endswith(".py") else e).strip("-")
            for e in self.entries
        ]
        short = (
            "-".join(stems)
            if len("-".join(stems)) <= 48
            else f"{stems[0][:32]}-and-{len(stems) - 1}-more"
        )
        return Path("out") / f"{short}-{self.digest()[:8]}"

    def to_toml(self) -> str:
        """Return the plan as TOML; its strings, numbers and lists are those of JSON."""
        lines = [
            f"{key} = {json.dumps(value)}" for key, value in self.model_dump(mode="json").items()
        ]
        return (
            "# The plan of this run; `zoo report` and a repeated `zoo compare` read it.\n"
            + "\n".join(lines)
            + "\n"
        )


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def make_plan(**fields: Any) -> Plan:
    """Build a plan; a wrong field is reported in one sentence instead of pydantic's report."""
    try:
        return Plan(**fields)
    except ValidationError as error:
        raise UsageError(_sentence("The request", error)) from None


def refuse_file(folder: Path) -> None:
    """Refuse a file of a run in the place of its folder.

    Raises:
        UsageError: it is a file; the message names the folder of the run.
    """
    if folder.is_file():
        run = next((p for p in folder.parents if (p / PLAN_FILE).is_file()), None)
        named = "the folder of a run made by `zoo compare`" if run is None else repr(str(run))
        raise UsageError(f"{str(folder)!r} is a file; give {named}.")


def read_plan(path: Path) -> Plan:
    """Read `plan.toml`.

    Raises:
        UsageError: the file is missing, is not TOML, or has an unknown key or wrong value.
    """
    refuse_file(path.parent)
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(
            f"There is no {path.name} in {str(path.parent)!r}; give the folder of a run made by"
            " `zoo compare`."
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(
            f"{str(path)!r} cannot be read as TOML ({error}); give another folder."
        ) from None
    try:
        return Plan(**fields)
    except ValidationError as error:
        raise UsageError(_sentence(repr(str(path)), error)) from None


def _sentence(what: str, error: ValidationError) -> str:
    parts = []
    for problem in error.errors(include_url=False):
        field = str(problem["loc"][0]) if problem["loc"] else "?"
        if problem["type"] == "extra_forbidden":
            known = sorted(Plan.model_fields)
            parts.append(
                f"unknown key {field!r}{did_you_mean(field, known)}, accepted: {', '.join(known)}"
            )
        else:
            parts.append(
                f"{field}: {problem['msg'][0].lower()}{problem['msg'][1:]} (got"
                f" {problem['input']!r})"
            )
    return f"{what} is not a plan: {'; '.join(dict.fromkeys(parts))}."


def planned(path: Path, plan: Plan) -> Plan:
    """Return the plan of the run in a folder with what this one adds; the plan if there is none.

    Raises:
        UsageError: the run differs in something that cannot be added.
    """
    if not (path / PLAN_FILE).is_file():
        return plan
    there = read_plan(path / PLAN_FILE)
    try:
        return there.extended(plan)
    except UsageError as error:
        raise UsageError(
            f"{spelled('out=', '--out ')}{str(path)!r} holds another run: {error}; give another"
            " folder, or ask for the same."
        ) from None
