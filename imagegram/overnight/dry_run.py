"""What a night would do: counts, disk, memory and time, measured on the first images of each step."""

import shutil

from imagegram.data.dataset import NO_SPLITS
from imagegram.machine import cores, memory_available
from imagegram.overnight.hours import clock
from imagegram.overnight.needs import check_machine, existing, needs_of
from imagegram.overnight.plan import Plan
from imagegram.overnight.trial import kind_of, try_out
from imagegram.report.record import FILE, Night

INDEX_SECONDS = 2e-6  # of a core for a token of the corpus; benchmarks/bench_index.py


def say_plan(plan: Plan) -> None:
    """Print what `overnight_run.py` would do with `plan`; nothing is written."""
    needs = needs_of(plan)
    codec = needs.codec
    print(f"{plan.out}: one index of {len(plan.data)} data set{'s' * (len(plan.data) > 1)}, codec {codec.name}")

    # 1) Data sets.
    for source, missing in zip(needs.sources, needs.to_tokenize, strict=True):
        done = "to tokenize" if missing == len(source) else f"of which {missing:,} are still to be tokenized"
        split = "" if source.split == NO_SPLITS else f", split {source.split}"
        print(f"  {source.name}{split}: {len(source):,} images, {done if missing else 'tokenized'}")

    # 2) Samplers.
    print("  trying the first batch of every step", flush=True)
    trial = try_out(needs)
    known = Night.read(plan.out).seconds if (plan.out / FILE).exists() else {}
    seconds = {}
    for name, settings in plan.all_settings().items():
        if name not in needs.to_generate:
            print(f"  {name}: {settings.describe()}; finished")
            continue
        seconds[name] = known.get(name, needs.decodes * trial.decode + trial.kinds[kind_of(settings)])
        basis = "as measured before" if name in known else f"{plan.sequences:,} sequences, {needs.decodes} decodes"
        print(f"  {name}: {settings.describe()}; about {clock(seconds[name])} ({basis})")

    # 3) Sums.
    index_seconds = needs.corpus * INDEX_SECONDS / cores()
    generate_seconds = sum(seconds.values())
    if plan.hours:
        generate_seconds = min(generate_seconds, 3600 * plan.hours)
    free = shutil.disk_usage(existing(plan.out)).free
    parts = {"tokenize": trial.encode, "index": index_seconds, "fit the kernel": trial.fit}
    parts |= {"train the judges": trial.judges, "generate": generate_seconds}
    print(f"  time: {', '.join(f'{name} {clock(value)}' for name, value in parts.items())}")
    print(f"  disk: about {needs.disk() / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free")
    print(f"  memory: about {needs.memory() / 2**30:.1f} GiB, {memory_available() / 2**30:.1f} GiB are available")
    check_machine(needs)
