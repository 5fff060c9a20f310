"""``engrain doctor``: is everything that engrain needs here and well?"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from engrain.cli.models import missing_model
from engrain.cli.session import Answer, Session, count, verb
from engrain.errors import EngrainError

if TYPE_CHECKING:
    from engrain.config import Resolved
    from engrain.home import Home
    from engrain.model.engine import Engine
    from engrain.study.trial import Trial

PACKAGES = (
    "engrain",
    "torch",
    "transformers",
    "peft",
    "safetensors",
    "gguf",
    "numpy",
    "SQLAlchemy",
)
LITTLE_DISK = 1 << 30
LITTLE_MEMORY = 2 << 30


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, how it is, and what to do if it is not well."""

    name: str
    status: Literal["ok", "warn", "fail"]
    words: str
    remedy: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)


Clean = Annotated[bool, typer.Option("--clean", help="Delete files that no lesson refers to.")]
Measure = Annotated[bool, typer.Option("--measure", help="Measure again what is kept.")]
Manners = Annotated[
    bool,
    typer.Option("--manners", help="Try the model: does it read, abstain, and ask? Minutes."),
]
Noise = Annotated[
    bool,
    typer.Option("--noise", help="Measure the noise of the panel, if it was not. Minutes."),
]
OtherModel = Annotated[
    str | None,
    typer.Option("--model", metavar="MODEL", help="Look at this model instead of the home's."),
]


@verb(
    "doctor",
    examples="engrain doctor\nengrain doctor --clean\nengrain doctor --home ~/work --json\n"
    "engrain doctor --manners --model smollm2-135m\nengrain doctor --noise",
)
def doctor(
    session: Session,
    clean: Clean = False,
    measure: Measure = False,
    manners: Manners = False,
    noise: Noise = False,
    model: OtherModel = None,
) -> Answer:
    """Check machine, versions, home and model; each with a remedy.

    The machine's speed is measured once and kept in the home: matrix products in both compute
    types, memory bandwidth, numbers of threads.

    The model is loaded, the ledger's chain of events is derived again, and files that lessons need
    are looked for; `engrain lessons verify` does more. The exit code is 1 if something fails.

    With --manners the model is told twelve small things, asked for them and for others, and made
    to ask by itself. That says whether it needs a lesson zero. The result is kept in the home.

    With --noise the panel is run on copies of the model that differ by rounding alone, once for
    this machine. Until then the gate assumes how much its figures move by chance.
    """
    found = list(examine(session, Look(clean, measure, manners, model, noise)))
    worst = "fail" if any(f.status == "fail" for f in found) else "ok"
    lines = []
    for item in found:
        lines.append(f"{item.status:<5}{item.name:<11}{item.words}")
        if item.remedy:
            lines.append(f"{'':<16}{item.remedy}")
    data = {"well": worst == "ok", "findings": [asdict(item) for item in found]}
    brief = [f"{item.status} {item.name}" for item in found if item.status != "ok"]
    return Answer(data, "\n".join(lines), brief, 1 if worst == "fail" else 0)


@dataclass(frozen=True)
class Look:
    """What to do beside looking, and at which model."""

    clean: bool = False
    measure: bool = False
    manners: bool = False
    model: str | None = None
    noise: bool = False


def examine(session: Session, look: Look) -> Iterator[Finding]:
    """Look at everything, one after another; what fails does not hide the rest."""
    from engrain.config import resolve
    from engrain.lesson.folder import LEDGER_FILE

    yield from _guarded("machine", _machine)
    yield from _guarded("for you", _recommended)
    yield from _guarded("versions", _versions)
    try:
        resolved = resolve(session.flags.home)
    except EngrainError as error:
        yield _failed("settings", error)
        return
    yield Finding("settings", "ok", f"digest {resolved.digest[:12]}")
    folder = resolved.home
    yield from _guarded("device", lambda: _device(resolved))
    yield from _guarded("speed", lambda: _speed(resolved, look.measure))
    yield from _guarded("disk", lambda: _disk(folder))
    if not (resolved.config.ledger.url or (folder / LEDGER_FILE).exists()):
        yield Finding("home", "warn", f"there is none in {folder}", "Make one: engrain init.")
        yield from _guarded("model", lambda: _model(session, resolved, look))
        return
    try:
        home = session.home()
    except EngrainError as error:
        yield _failed("home", error)
        return
    yield from _guarded("home", lambda: _writable(folder))
    yield from _guarded("lock", lambda: _lock(home))
    yield from _guarded("ledger", lambda: _ledger(home))
    yield from _guarded("left over", lambda: _left_over(home, look.clean))
    yield from _guarded("jobs", lambda: _jobs(home))
    if look.model is not None:
        yield from _guarded("model", lambda: _model(session, resolved, look, folder))
        return
    yield from _guarded("model", lambda: _home_model(home))
    yield from _guarded("writer", lambda: _writer(home))
    if look.manners:
        yield from _guarded("manners", lambda: _home_manners(session, home, look))
    if look.noise:
        yield from _guarded("noise", lambda: _noise(session, home))


def _guarded(name: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from look()
    except EngrainError as error:
        yield _failed(name, error)
    except OSError as error:
        yield Finding(name, "fail", str(error), "Check the folder and the disk it is on.")


def _failed(name: str, error: EngrainError) -> Finding:
    return Finding(name, "fail", f"{error.code}: {error.message}", error.remedy)


def _machine() -> Iterator[Finding]:
    import psutil

    from engrain.model.threads import machine_fingerprint

    machine = machine_fingerprint()
    words = f"{machine['system']}, {machine['cpu']}, Python {platform.python_version()}"
    yield Finding("machine", "ok", words)
    free = psutil.virtual_memory().available
    if free < LITTLE_MEMORY:
        remedy = "Close other programs: learning takes about 1 GB with the pocket model."
        yield Finding("memory", "warn", f"{_size(free)} free", remedy)
    else:
        yield Finding("memory", "ok", f"{_size(free)} free")


def _recommended() -> Iterator[Finding]:
    """Which model of the catalogue this machine has room for."""
    import psutil

    from engrain.model.catalogue import is_here, recommended

    memory = psutil.virtual_memory().total
    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    everyday, better = recommended(memory)
    words = f"{count(cores, 'core')} and {_size(memory)} of memory are enough for {everyday.name}"
    if better is not None:
        words += f"; there is room for {better.name} as a better one and as writer"
    figures = {
        "cores": cores,
        "memory": memory,
        "everyday": everyday.name,
        "better": better.name if better else None,
    }
    remedy = "" if is_here(everyday) else f"Get it: engrain models get {everyday.name}."
    yield Finding("for you", "ok", words, remedy, figures)


def _device(resolved: Resolved) -> Iterator[Finding]:
    """Where the model runs."""
    from engrain.model.hardware import choose_device

    chosen = resolved.config.model.device
    device = choose_device(chosen)
    by = "found" if chosen == "auto" else f"set by {resolved.origins['model.device']}"
    yield Finding("device", "ok", f"{device}, {by}", "", {"device": device})


def _speed(resolved: Resolved, again: bool) -> Iterator[Finding]:
    """Threads, compute type, and what was measured of both."""
    from engrain.lesson.folder import LEDGER_FILE
    from engrain.model import kernels
    from engrain.model.hardware import bf16_flags, default_compute
    from engrain.model.peak import load_peak, measure_peak, peak_path, store_peak
    from engrain.model.threads import default_threads

    chosen = resolved.config.model
    threads = chosen.threads or default_threads()
    compute = default_compute() if chosen.compute == "auto" else chosen.compute
    path = peak_path(resolved.home / "machine", threads, compute)
    peak = None if again else load_peak(path)
    if peak is None:
        peak = measure_peak(compute, threads=threads)
        if (resolved.home / LEDGER_FILE).exists() or resolved.config.ledger.url:
            store_peak(path, peak)
    words, remedy = f"{threads} of {os.cpu_count()} processors are used", ""
    if better := peak.better_threads(threads):
        words += f"; with {better} a step's products are clearly faster"
        remedy = f"Set model.threads to {better}."
    yield Finding("threads", "warn" if remedy else "ok", words, remedy)
    by = f"the processor has {', '.join(bf16_flags()) or 'no bf16 multiplication'}"
    if chosen.compute != "auto":
        by = f"set by {resolved.origins['model.compute']}; {by}"
    words, remedy = f"training runs in {compute} ({by})", ""
    if (faster := peak.faster) and faster != compute:
        words += f", yet {faster} was measured faster"
        remedy = f"Set model.compute to {faster}; what is learned differs in its last bits."
    data = {"compute": compute, "by_flags": default_compute(), "flags": list(bf16_flags())}
    yield Finding("compute", "warn" if remedy else "ok", words, remedy, data)
    if chosen.kernels == "off":
        words = f"switched off by {resolved.origins['model.kernels']}"
        yield Finding("kernels", "ok", words, "", {"kernels": ""})
    elif name := kernels.name():
        yield Finding("kernels", "ok", f"compiled, {name}", "", {"kernels": name})
    else:
        words = f"none, so answers come more slowly: {kernels.reason()}"
        remedy = "Install a C compiler (Debian, Ubuntu: apt-get install gcc libc6-dev), then "
        remedy += "run python -m engrain.model.kernels.build."
        yield Finding("kernels", "warn", words, remedy, {"kernels": ""})
    step, large = (
        ", ".join(f"{kind} {speed:.0f}" for kind, speed in found.items())
        for found in (peak.step_gflops, peak.large_gflops)
    )
    words = f"GFLOP/s in a small step: {step}; in a large one: {large}; "
    words += f"memory {peak.bandwidth_gbs:.0f} GB/s; measured {peak.measured_at[:10]}"
    yield Finding("speed", "ok", words, "", peak.to_dict())


def _versions() -> Iterator[Finding]:
    # Here alone: importing it takes a tenth of a command's start.
    from importlib.metadata import PackageNotFoundError, version

    said = []
    for name in PACKAGES:
        try:
            said.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            yield Finding("versions", "fail", f"{name} is missing", f"pip install {name}")
    yield Finding("versions", "ok", ", ".join(said))


def _disk(folder: Path) -> Iterator[Finding]:
    place = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(place).free
    if free < LITTLE_DISK:
        yield Finding("disk", "warn", f"{_size(free)} free in {place}", "Free some space.")
    else:
        yield Finding("disk", "ok", f"{_size(free)} free in {place}")


def _writable(folder: Path) -> Iterator[Finding]:
    probe = folder / f".doctor-{os.getpid()}"
    try:
        probe.write_bytes(b"engrain")
        probe.unlink()
    except OSError as error:
        yield Finding(
            "home",
            "warn",
            f"{folder} can be read only: {error.strerror}",
            "Give the folder write permission, or choose another with --home.",
        )
        return
    yield Finding("home", "ok", f"{folder} can be written")


def _lock(home: Home) -> Iterator[Finding]:
    holder = home.lock.holder()
    if holder is None:
        yield Finding("lock", "ok", "nobody is writing")
        return
    yield Finding(
        "lock",
        "warn",
        f"process {holder.pid} is writing ({holder.purpose}) since {holder.since}",
        "Reading works meanwhile; wait until it is done to learn.",
    )


def _ledger(home: Home) -> Iterator[Finding]:
    from engrain.ledger.replay import check_chain

    problems = check_chain(home.ledger.events())
    lessons = home.lessons()
    for lesson in lessons:
        for digest in lesson.blobs():
            if not home.blobs.has(digest):
                yield Finding(
                    "blobs",
                    "fail",
                    f"BlobMissingError: {digest[:12]} of lesson {lesson.id} is gone",
                    "Restore the blobs folder from a backup.",
                )
    for problem in problems:
        yield Finding("ledger", "fail", f"{problem.kind}: {problem.message}", problem.remedy)
    if not problems:
        state = home.state.digest[:12]
        yield Finding(
            "ledger", "ok", f"{count(len(lessons), 'lesson')}, weights {state}, chain intact"
        )


def _left_over(home: Home, clean: bool) -> Iterator[Finding]:
    """Files of killed and failed runs; a job that can be resumed keeps its own."""
    if clean:
        deleted = home.ledger.discard_garbage()
        yield Finding("left over", "ok", f"{count(deleted, 'file')} deleted")
    elif left := home.ledger.garbage():
        words = f"{count(len(left), 'file')} of runs that came to nothing"
        yield Finding("left over", "warn", words, "Delete them: engrain doctor --clean.")
    else:
        yield Finding("left over", "ok", "no file that nothing refers to")


def _jobs(home: Home) -> Iterator[Finding]:
    waiting = [job for job in home.jobs() if job.status == "interrupted"]
    if waiting:
        ids = ", ".join(job.id for job in waiting)
        yield Finding(
            "jobs", "warn", f"interrupted: {ids}", f"engrain jobs resume {waiting[-1].id}"
        )
    else:
        yield Finding("jobs", "ok", "none is interrupted")


def _home_model(home: Home) -> Iterator[Finding]:
    loaded = home.loaded
    words = f"{loaded.source}, digest {loaded.base_digest[:12]}, {loaded.profile.model_type}"
    yield Finding("model", "ok", f"{words}, context {loaded.max_length} tokens")
    digest = home.served.refresh()
    yield Finding("weights", "ok", f"the lessons in force fold to {digest[:12]}, as recorded")


def _writer(home: Home) -> Iterator[Finding]:
    """Who would ask the questions of a lesson."""
    from engrain.lesson.writers import choose

    found = choose(home.config.study.writer, home.served, home.config.model)
    name = "the model itself" if found.is_self else found.name
    figures = {"writer": found.name, "why": found.why}
    yield Finding("writer", "ok", f"{name} asks the questions: {found.why}", "", figures)


def _model(
    session: Session, resolved: Resolved, look: Look, keep: Path | None = None
) -> Iterator[Finding]:
    """A model that is in no home, with the lesson zero that comes with it."""
    from engrain.lesson.writers import with_manners
    from engrain.model.disk import megabytes
    from engrain.model.engine import Engine
    from engrain.model.loading import load_model

    model = resolved.config.model
    source = look.model or model.source
    if not look.model and (missing := missing_model(model)):
        remedy = f"`engrain init` gets it ({megabytes(missing.bytes)} MB), or: engrain models get "
        remedy += f"{missing.name}; `--model pocket` needs no download."
        yield Finding("model", "warn", f"{missing.name} is not on this machine yet", remedy)
        return
    loaded = load_model(source, dtype=model.dtype, local_only=True, device=model.device)
    yield Finding("model", "ok", f"{loaded.source}, digest {loaded.base_digest[:12]}")
    if look.manners:
        yield _manners(session, Engine(loaded), with_manners(loaded), keep, look.measure)


def _home_manners(session: Session, home: Home, look: Look) -> Iterator[Finding]:
    """The home's model without its lessons, but with lesson zero where that is in force."""
    from engrain.lesson.zero import is_zero, shipped

    served = home.served
    adapter = home.state.adapters[0] if served.mannered else ""
    with served.engine.untaught():
        found = _manners(session, served.engine, adapter, home.path, look.measure)
    off = [entry.id for entry in home.lessons()[:1] if is_zero(entry)]
    remedy = found.remedy
    if remedy and off and not adapter:
        remedy = f"Lesson zero is off: engrain lessons enable {off[0]}."
    elif remedy and not adapter and shipped(home.loaded.base_digest):
        remedy = "A lesson zero of it comes with engrain: a new home begins with it (engrain init)."
    yield replace(found, remedy=remedy)


def _noise(session: Session, home: Home) -> Iterator[Finding]:
    """The noise band of the home's panel, measured now or before."""
    asked = home.asked
    with session.progress("Measuring the noise of the panel") as on_progress:
        band = asked.noise(on_progress)
    loss = band.of("loss")
    words = f"of {band.copies} copies; by chance the panel's loss moves by "
    words += f"{100 * loss.band / loss.mean:.2f}%"
    yield Finding("noise", "ok", words, "", band.to_dict())


def _manners(
    session: Session, engine: Engine, adapter: str, keep: Path | None, again: bool
) -> Finding:
    """How the trial went, now or before; ``adapter`` is the digest of the lesson zero in force."""
    from engrain.study.trial import Kept, run_trial

    loaded = engine.loaded
    kept = Kept(keep or Path(), loaded.base_digest, adapter)
    found = None if again or keep is None else kept.read()
    if found is None:
        with session.progress("Trying the model") as on_progress:
            found = run_trial(
                engine,
                taught=bool(adapter),
                on_talk=lambda done, total: on_progress("talk", done, total),
            )
        if keep is not None:
            kept.keep(found)
    with_or_not = "with" if found.taught else "without"
    words = f"{with_or_not} lesson zero it answers what it was told in {found.reads} of "
    words += f"{found.talks} talks, says in {found.abstains} that it was not told, and asks "
    words += f"rightly in {found.asks}"
    status: Literal["ok", "warn"] = "ok" if found.mannered else "warn"
    return Finding("manners", status, words, _lacking(found, loaded.source), found.to_dict())


def _lacking(found: Trial, source: str) -> str:
    """What to do for a model's manners."""
    train = f"python -m training.manners.train --model {source} --out runs/manners"
    if found.mannered:
        return ""
    if found.taught:
        return "Its lesson zero falls short of the bar: take a larger model."
    return f"It needs a lesson zero. In a checkout of engrain: {train}"


def _size(count: float) -> str:
    from engrain.exam.report import size

    return size(count)
