"""The machine and its noise, what was not measured, every variant, and how to repeat the run."""

import shlex

from workbench.errors import plural
from workbench.measure.records import BASELINE, Environment
from workbench.report import details as detail_words
from workbench.report.contents import contents
from workbench.report.page.blocks import CardList, CommandLines, PageSection, VariantCard, lines, table
from workbench.report.page.run_data import RunData
from workbench.report.verdict import sections
from workbench.report.words import times
from workbench.results.history import details
from workbench.results.verdict import Row

# Sections of the verdict that stand elsewhere on the page.
ELSEWHERE = {
    "Winner", "No winner", "Close behind", "Over the budget", "Notes: mend these before anything else",
    "Not measured here", "Dropped early",
}  # fmt: skip


def machine(run: RunData) -> PageSection:
    """What the figures were measured on, how noisy it was, and which rounds were disturbed."""
    info = run.info
    facts = contents(run.comparison, "speed", verbose=True, audit=False).facts
    system = info.machine
    about = [
        f"{system.system}, {system.architecture}, {system.memory_bytes / 2**30:.0f} GiB of memory, "
        f"Python {system.python}; features: {', '.join(system.features) or 'unknown'}"
    ]
    if (state := info.conditions) is not None:
        quota = "no quota" if state.quota is None else f"processor quota {state.quota:g}"
        about.append(f"governor {state.governor}, turbo {state.turbo}, {quota}")
    rest = [s for s in sections(run.comparison, verbose=True) if s.title not in ELSEWHERE]
    more = [f"{section.title}: {line}" for section in rest for line in section.lines]
    blocks = lines(*facts, *about, _disturbed(info.environments, info.repeated_rounds), *more)
    return PageSection("machine", "Machine, noise and disturbed rounds", blocks)


def _disturbed(environments: tuple[Environment, ...], repeated: int) -> str:
    if not environments:
        return "Nothing is known of the machine's state while it was timed."
    causes = [f"round {n}: {e.disturbed}" for n, e in enumerate(environments, start=1) if e.disturbed]
    rounds = f"{plural(len(environments), 'round')} of timing, {repeated} repeated"
    return f"{rounds}; disturbed: {'; '.join(causes)}" if causes else f"{rounds}; none was disturbed"


def unmeasured(run: RunData) -> PageSection:
    """What was not measured, or not to the end, and why."""
    found = {section.title: section.lines for section in sections(run.comparison, verbose=True)}
    told = [*found.get("Not measured here", ()), *found.get("Dropped early", ())]
    blocks = lines(*(told or ["Everything that was asked for was measured to the end."]))
    return PageSection("unmeasured", "What was not measured, and why", blocks)


def variants(run: RunData) -> PageSection:
    cards = CardList(tuple(_card(run, row) for row in run.comparison.rows))
    return PageSection("variants", "Every variant: recipe, commands, figures", (cards,))


def _card(run: RunData, row: Row) -> VariantCard:
    path = run.folder.recipe(row.variant)
    name = shlex.quote(row.variant)
    recipe = path.read_text(encoding="utf-8") if path.is_file() else None
    commands = [f"krishi-bench compare {run.info.run_id} --variant {name}"]
    if row.variant == BASELINE:
        recipe = None
    elif row.status != "skipped":
        commands.insert(0, f"krishi-bench run {shlex.quote(str(path) if recipe else row.recipe)}")
        commands.append(f"krishi-bench promote --run {run.info.run_id} --variant {name}")
    trial = run.trials.get(row.variant)
    known = trial and details(run.folder, run.info, trial, run.trials.values())
    everything = detail_words.text(known) if known else row.reason or ""
    return VariantCard(
        id=str(run.card_id(row.variant)),
        variant=row.variant,
        summary=times(row.speedup, row.speedup_ci) if row.speedup is not None else row.status,
        recipe=recipe,
        commands=tuple(commands),
        everything=everything,
    )


def repeat(run: RunData) -> PageSection:
    """The commands that repeat the run, and the digests of what went into it."""
    info = run.info
    commands = (
        f"krishi-bench {shlex.join(info.arguments)}",
        f"krishi-bench compare {info.run_id} --reanalyse",
        f"krishi-bench report {info.run_id}",
    )
    digests = table(
        "Digests (sha256)",
        ("what", "digest"),
        [
            ("checkpoint", info.checkpoint_digest),
            ("validation photos", info.validation_digest),
            ("calibration photos", info.calibration_digest or "none were used"),
            *(
                (trial.variant, trial.artifact_digest)
                for trial in run.trials.values()
                if trial.artifact_digest
            ),
        ],
    )
    libraries = ", ".join(f"{name} {version}" for name, version in info.libraries.items())
    budget = info.budget.model_dump(mode="json", exclude_none=True)
    limits = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in budget.items())
    told = lines(
        f"Workspace {info.workspace}, {info.created_at:%Y-%m-%d %H:%M} UTC; budget: {limits}",
        f"Preprocessing: {info.preprocess.model_dump(mode='json', exclude_none=True)}",
        f"With {libraries}",
    )
    return PageSection("repeat", "To repeat it", (CommandLines(commands), *told, digests))
