"""The page about pretraining on a GPU, from the records of its runs: what is aimed at, and what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import measure
from _pretrain_runs import HOW_LOSSES_ARE_LOGGED, loss_table

Record = Mapping[str, Any]
UNKNOWN = "not yet measured"
COMMAND = 'make bench BENCH=pretrain_gpu PEERS="NANOCHAT NANOGPT"'

TITLES = {
    "speed": "GPT-2's shape (124M) beside nanochat and nanoGPT",
    "large": "1.5 billion parameters",
    "float8": "8 bits beside bfloat16 at depth 24",
    "exact": "What `exact` costs",
    "curves": "Losses side by side",
}
NOTES = {
    "speed": "Full attention for everyone; nanochat with its own heads of 128, and with GPT-2's 64.",
    "large": "GPT-2 XL's shape: 48 blocks of 1,600.",
    "float8": "24 blocks of 1,536, rows of 2,048.",
    "exact": "Gradients summed over a tree of micro-batches, by kernels whose additions have a fixed order.",
    "curves": "The 124M shape, each with its default learning rates.",
}

DATA = {
    "text": "Tokens of text, as byte-level BPE.",
    "random": "Random ids, whose losses mean nothing.",
}

HOW = """Ours is the stage's own loop with its defaults: Muon for the blocks' matrices and AdamW for the rest, weights and updates in
float32, products in bfloat16 by autocast, each block compiled by `torch.compile`, attention by
`scaled_dot_product_attention`, a loss that holds no logits. nanochat and nanoGPT are their own unmodified training scripts,
compiled as they compile themselves, in bfloat16, at the same shape and the same tokens per step. Ours and nanochat train with
Muon and AdamW, nanoGPT with AdamW. One process, one GPU; runs alternate.

Tokens/s are of the median step, after the steps in which kernels are compiled. MFU counts 6 for each matrix weight and 12 × layers
× width × context for attention, alike for everyone, over the dense bfloat16 peak of the datasheet (H100 and H200 SXM: 989
TFLOP/s). Memory is the most that torch held at once. Ratios are medians over rounds.

"""


def write(
    records: Sequence[Record], plan: Mapping[str, Mapping[str, Any]], is_try: bool = False
) -> tuple[str, str | None]:
    """Write the page, and a drawing of the loss curves where there are some.

    Args:
        records: Lines of `pretrain-gpu.jsonl`.
        plan: What each piece runs, by its name.
        is_try: The records are of a toy model on a CPU.
    """
    text = f"# Pretraining on a GPU\n\n`{COMMAND}`; on a machine that lends itself for ten minutes at a time, `python bench/pretrain_gpu.py --peer NANOCHAT --peer NANOGPT --minutes 9` until nothing is left.\n\n"
    if is_try:
        text += "**A try of the bench with a toy model on a CPU: these figures mean nothing.**\n\n"
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record["device"], record["torch"]), []).append(record)
    if not groups:
        text += "**Not yet measured: no GPU was at hand.** The same path is run with a toy model on a CPU by a test.\n\n"
    text += HOW
    text += targets(
        [*groups.values()] or [[]], [f"{d}, torch {t}" for d, t in groups] or ["measured"]
    )
    plot = None
    for (device, version), of_group in groups.items():
        commits = ", ".join(sorted({record["commit"] for record in of_group}))
        text += f"## {device}, torch {version}\n\nCommit {commits}.\n\n"
        for name, title in TITLES.items():
            of_piece = [record for record in of_group if record["piece"] == name]
            if of_piece:
                note = f"{NOTES[name]} {DATA[of_piece[-1]['data']]}"
                text += f"### {title}\n\n{note}\n\n{table_of(of_piece)}{failures(of_piece)}"
        curves = curves_of(of_group)
        if curves:
            text += HOW_LOSSES_ARE_LOGGED + "\n" + loss_table(curves) + "\n"
            text += "![Loss over steps](pretrain-gpu.svg)\n\n"
            plot = plot or draw(curves)
    return text + what_runs(plan), plot


def targets(groups: Sequence[Sequence[Record]], names: Sequence[str]) -> str:
    """Tabulate what is aimed at beside what was measured."""
    questions: list[tuple[str, str, Callable[[Sequence[Record]], str]]] = [
        ("124M: tokens/s over nanoGPT's", "≥ 1.3", lambda r: ratio(r, "speed", "nanoGPT", "tok_s")),
        (
            "124M: tokens/s over nanochat's",
            "≥ 1.05",
            lambda r: ratio(r, "speed", "nanochat", "tok_s"),
        ),
        (
            "124M: peak memory over nanochat's",
            "≤ 0.7",
            lambda r: ratio(r, "speed", "nanochat", "peak_mem_gib"),
        ),
        ("124M: MFU", "≥ 50%", lambda r: share(r, "speed", "llmpipe", "mfu")),
        ("1.5B: MFU", "≥ 50%", lambda r: share(r, "large", "llmpipe", "mfu")),
        (
            "depth 24: tokens/s of float8 over bfloat16",
            "≥ 1.15",
            lambda r: ratio(r, "float8", "bfloat16", "tok_s", ours="float8"),
        ),
        (
            "124M: tokens/s of `exact` over the default",
            "",
            lambda r: ratio(r, "exact", "default", "tok_s", ours="exact"),
        ),
        (
            "124M: waiting for data, share of a step",
            "< 1%",
            lambda r: share(r, "speed", "llmpipe", "wait_share"),
        ),
    ]
    rows = [
        [title, target, *(answer(records) for records in groups)]
        for title, target, answer in questions
    ]
    return measure.table(["", "aim", *names], rows) + "\n"


def of_entry(records: Sequence[Record], piece: str, entry: str) -> dict[int, Record]:
    """Give the results of an entry by round."""
    return {
        r["round"]: r["result"]
        for r in records
        if r["piece"] == piece and r["entry"] == entry and r["result"] is not None
    }


def ratio(
    records: Sequence[Record], piece: str, theirs: str, key: str, ours: str = "llmpipe"
) -> str:
    """Divide ours by theirs, round by round, and take the median."""
    mine, others = of_entry(records, piece, ours), of_entry(records, piece, theirs)
    ratios = [mine[i][key] / others[i][key] for i in mine if i in others]
    return f"{statistics.median(ratios):.2f}" if ratios else UNKNOWN


def share(records: Sequence[Record], piece: str, entry: str, key: str) -> str:
    """Give the median of a share, where it is known."""
    values = [r[key] for r in of_entry(records, piece, entry).values() if r.get(key) is not None]
    return f"{statistics.median(values):.2%}" if values else UNKNOWN


def table_of(records: Sequence[Record]) -> str:
    """Tabulate the runs of one piece; each entry's figures are medians over its rounds."""
    rows = []
    for entry in dict.fromkeys(record["entry"] for record in records):
        results = list(of_entry(records, records[0]["piece"], entry).values())
        if not results:
            continue
        last = results[-1]
        speed, mfu = share_of(results, "tok_s"), share_of(results, "mfu")
        rows.append(
            [
                entry,
                last["optimizer"],
                f"{last['params'] / 1e6:,.1f}M",
                f"{speed:,.0f}",
                "-" if mfu is None else f"{mfu:.1%}",
                f"{share_of(results, 'of_measured_matmul'):.1%}",
                f"{max(r['peak_mem_gib'] for r in results):.2f}",
                f"{share_of(results, 'val_loss'):.3f}",
                len(results),
            ]
        )
    titles = ["", "optimizer", "parameters", "tokens/s", "MFU", "of a measured product"]
    return measure.table([*titles, "peak GiB", "val loss", "rounds"], rows) + "\n" if rows else ""


def share_of(results: Sequence[Record], key: str) -> float | None:
    """Give the median over results that have the value."""
    values = [result[key] for result in results if result.get(key) is not None]
    return statistics.median(values) if values else None


def failures(records: Sequence[Record]) -> str:
    """Name the runs that gave nothing."""
    lines = [
        f"* {r['entry']}, round {r['round'] + 1}: failed, `{r['error']}`\n"
        for r in records
        if r["result"] is None
    ]
    return "".join(lines) + "\n" if lines else ""


def curves_of(records: Sequence[Record]) -> dict[str, list[float]]:
    """Give the losses of each entry of the piece `curves`."""
    return {r["entry"]: r["losses"] for r in records if r["piece"] == "curves" and r["losses"]}


def what_runs(plan: Mapping[str, Mapping[str, Any]]) -> str:
    """Tabulate the runs that the command makes."""
    rows = [
        [f"`{name}`", p["shape"], p["n_steps"], ", ".join(p["entries"]), p["n_rounds"], f"{p['limit_s']:.0f} s"]
        for name, p in plan.items()
    ]  # fmt: skip
    titles = ["`--only`", "shape", "steps", "entries", "rounds", "limit of a run"]
    return "## What the command runs\n\n" + measure.table(titles, rows)


def draw(curves: Mapping[str, Sequence[float]]) -> str:
    """Draw losses over steps as an SVG that needs nothing else."""
    colors = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # Okabe and Ito: told apart by all eyes
    n_steps = max(len(losses) for losses in curves.values())
    low = min(min(losses) for losses in curves.values())
    high = max(max(losses) for losses in curves.values())
    height = (high - low) or 1.0
    parts = []
    for i, (name, losses) in enumerate(curves.items()):
        points = " ".join(
            f"{60 + 560 * step / max(1, n_steps - 1):.1f},{20 + 280 * (high - loss) / height:.1f}"
            for step, loss in enumerate(losses)
        )
        color = colors[i % len(colors)]
        parts.append(f'<polyline fill="none" stroke="{color}" stroke-width="2" points="{points}"/>')
        parts.append(f'<text x="440" y="{40 + 20 * i}" fill="{color}">{name}</text>')
    parts += [
        f'<text x="10" y="25">{high:.2f}</text><text x="10" y="305">{low:.2f}</text>',
        f'<text x="60" y="325">step 1</text><text x="560" y="325">step {n_steps}</text>',
    ]
    style = 'font-family="sans-serif" font-size="14"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 340" {style}>'
    return head + "<title>Training loss over steps</title>" + "".join(parts) + "</svg>\n"
