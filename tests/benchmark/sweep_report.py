"""Judges and shows what cuda_sweep.py measured: a table, a summary, a plot. Needs no GPU and no PyTorch.

A cell is a dict: "group", "cell", "criteria" (sweep_cells.Criterion), "contenders": name -> "flops", "milliseconds" by
round, "errors", "wrong" (what is, or empty), "kernel"; or "not_run", which says why; and "matmul", a contender too.
"""

import math
import statistics

VERDICTS = ("WRONG", "not run", "below", "pass", "aim")
HEADINGS = (f"{'cell':31} {'contender':14} {'TFLOP/s':>7} {'%mm':>4}  {'over':9} {'TFLOP/s':>7} {'ratio':>6}"
            f" {'least':>6} {'most':>6} {'bar':>5} {'verdict':7} {'FA2':>6} {'ratio':>5} {'error':>8}  kernel")


def ran(contender):
    return bool(contender and contender.get("milliseconds"))


def tflops(contender):
    return contender["flops"] / statistics.median(contender["milliseconds"]) / 1e9


def ratios(criterion, contender, other):
    """Round by round."""
    rates = [contender["flops"] / milliseconds / 1e9 for milliseconds in contender["milliseconds"]]
    if criterion["kind"] == "rate":
        return rates
    others = [other["flops"] / milliseconds / 1e9 for milliseconds in other["milliseconds"]]
    if criterion["kind"] == "cost":
        return [b / a for a, b in zip(rates, others)]
    return [a / b for a, b in zip(rates, others)]


def verdict_on(criterion, median):
    bar, slack, aim = criterion["bar"], criterion["slack"], criterion["aim"]
    if bar is None:
        return ""
    # A cost is to be small.
    value, bar = (bar, median) if criterion["kind"] == "cost" else (median, bar)
    if value < bar * slack:
        return "below"
    return "aim" if aim is not None and value >= bar * aim else "pass"


def judge(cell):
    """For each criterion a row: who, over whom, the ratio with its range, the bar and the verdict."""
    rows = []
    for criterion in cell["criteria"]:
        contender = cell["contenders"].get(criterion["of"])
        other = cell["contenders"].get(criterion["over"])
        row = {**criterion, "verdict": "", "median": None}
        rows.append(row)
        if contender is None:
            row["verdict"] = "not run" if criterion["bar"] else ""
            continue
        if contender.get("wrong"):
            row["verdict"] = "WRONG"
        elif not ran(contender) or criterion["over"] and not ran(other):
            row["verdict"] = "not run" if criterion["bar"] else ""
        if ran(contender) and (criterion["over"] is None or ran(other)):
            values = sorted(ratios(criterion, contender, other))
            row.update(median=statistics.median(values), least=values[0], most=values[-1])
            row["verdict"] = row["verdict"] or verdict_on(criterion, row["median"])
    return rows


def percent_of_matmul(cell, contender):
    return f"{tflops(contender) / tflops(cell['matmul']):.0%}" if ran(cell.get("matmul")) else ""


def format_row(cell, row, beside=None):
    """`beside`: the row of the same contender over FlashAttention-2."""
    contender = cell["contenders"].get(row["of"]) or {}
    other = cell["contenders"].get(row["over"]) or {}
    rate = f"{tflops(contender):7.1f} {percent_of_matmul(cell, contender):>4}" if ran(contender) else ""
    other_rate = f"{tflops(other):7.1f}" if ran(other) else ""
    digits = 0 if row["kind"] == "rate" else 3
    ratio = (" ".join(f"{row[name]:6.{digits}f}" for name in ("median", "least", "most"))
             if row["median"] is not None else "")
    bar = "" if row["bar"] is None else f"{row['bar']:.{0 if row['kind'] == 'rate' else 2}f}"
    fa2 = (f"{tflops(cell['contenders']['fa2']):6.1f} {beside['median']:5.2f}"
           if beside and beside["median"] is not None else "")
    error = contender.get("errors", {}).get("relative")
    note = contender.get("wrong") or contender.get("not_run") or other.get("not_run") or contender.get("kernel", "")
    over = {"cost": f"/{row['over']}"}.get(row["kind"], row["over"] or "")
    return (f"{cell['group'] + '/' + cell['cell']:31} {row['of']:14} {rate:12}  {over:9} {other_rate:7} {ratio:20}"
            f" {bar:>5} {row['verdict']:7} {fa2:12} {'' if error is None else format(error, '8.1e'):>8}  {note}")


def table_of(cell):
    name = f"{cell['group'] + '/' + cell['cell']:31}"
    if cell.get("not_run"):
        return [f"{name} not run: {cell['not_run']}"]
    rows = judge(cell)
    over_fa2 = {row["of"]: row for row in rows if row["over"] == "fa2"}
    lines = []
    for row in rows:
        if row["over"] != "fa2":
            lines.append(format_row(cell, row, over_fa2.get(row["of"]) if row["over"] == "cudnn" else None))
    shown = {row["of"] for row in rows}
    for contender, result in cell["contenders"].items():
        if contender not in shown and result.get("wrong"):  # what others are compared with
            lines.append(f"{name} {contender:14} WRONG: {result['wrong']}")
    return lines


def fp8_growth(cells, lengths, limit):
    """Rows on how the fp8 error of the longest cell stands to that of the shortest."""
    rows = []
    for mask in ("full", "causal"):
        errors = {}
        for cell in cells:
            contender = cell.get("contenders", {}).get("fp8")
            if cell["group"] == "fp8" and contender and mask in cell["cell"].split() and contender.get("errors"):
                errors[cell["cell"].split()[-1]] = contender["errors"]["relative"]
        names = [f"{length // 1024}k" for length in lengths]
        if not all(name in errors for name in names):
            continue
        growth = errors[names[-1]] / errors[names[0]]
        rows.append({"mask": mask, "errors": {name: errors[name] for name in names}, "growth": growth, "bar": limit,
                     "verdict": "pass" if growth <= limit else "below"})
    return rows


def format_growth(row):
    errors = ", ".join(f"{name} {error:.2e}" for name, error in row["errors"].items())
    return (f"{'fp8/error growth ' + row['mask']:31} {errors}: {row['growth']:.3f} times, at most {row['bar']:.2f}: "
            f"{row['verdict']}")


def missed_bars(cells):
    """The first build's, as lines, the furthest first."""
    rows = [(cell, row) for cell in cells if not cell.get("not_run") for row in judge(cell)
            if row["verdict"] == "below" and "@" not in row["of"]]
    rows.sort(key=lambda pair: pair[1]["bar"] / pair[1]["median"] if pair[1]["kind"] == "cost"
              else pair[1]["median"] / pair[1]["bar"])
    return [f"missed: {cell['group']}/{cell['cell']} {row['of']}: {row['median']:.3f}, bar {row['bar']:.2f}"
            for cell, row in rows]


def summary(cells, growth=()):
    """(one line, anything wrong, any bar missed); the bars are the first build's."""
    rows = [row for cell in cells if not cell.get("not_run") for row in judge(cell) if "@" not in row["of"]]
    counts = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in VERDICTS}
    counts["below"] += sum(row["verdict"] == "below" for row in growth)
    counts["pass"] += sum(row["verdict"] == "pass" for row in growth)
    wrong = [f"{cell['group']}/{cell['cell']} {name}" for cell in cells
             for name, contender in cell.get("contenders", {}).items() if contender.get("wrong")]
    left_out = sum(bool(cell.get("not_run")) for cell in cells)
    judged = sum(counts[verdict] for verdict in ("below", "pass", "aim", "not run"))
    line = (f"{len(cells)} cells: {counts['pass'] + counts['aim']} of {judged} bars held, {counts['aim']} of them with"
            f" 5% to spare, {counts['below']} missed, {counts['not run']} not run, {len(wrong)} results wrong")
    to_cudnn = [row["median"] for row in rows if row["of"] == "ours" and row["over"] == "cudnn" and row["median"]]
    if to_cudnn:
        mean = math.exp(statistics.fmean(math.log(ratio) for ratio in to_cudnn))
        line += (f"; ours over cuDNN {mean:.3f} ({min(to_cudnn):.3f}-{max(to_cudnn):.3f}), geometric mean of"
                 f" {len(to_cudnn)}")
    if left_out:
        line += f"; {left_out} cells not run"
    if wrong:
        line += f"; WRONG: {', '.join(wrong)}"
    missed = bool(counts["below"] or counts["not run"] or left_out)
    return line, bool(wrong), missed


def series(cells, dim, mask):
    """name -> [(length, TFLOP/s)] of the main cells of a panel, and "matmul"."""
    lines = {}
    for cell in cells:
        words = cell["cell"].split()
        if cell["group"] != "main" or words[:2] != [f"d{dim}", mask] or "contenders" not in cell:
            continue
        length = int(words[2][:-1]) * 1024 if words[2].endswith("k") else int(words[2])
        for name, contender in {**cell["contenders"], "matmul": cell.get("matmul")}.items():
            if ran(contender):
                lines.setdefault(name, []).append((length, tflops(contender)))
    return lines


STYLES = {"ours": {"color": "#c1272d", "marker": "o", "linewidth": 2.2, "label": "Tessera", "zorder": 5},
          "cudnn": {"color": "#1f5fa8", "marker": "s", "label": "cuDNN"},
          "fa2": {"color": "#6b8e23", "marker": "^", "label": "FlashAttention-2"},
          "matmul": {"color": "0.45", "linestyle": "--", "linewidth": 1.2, "label": "matmul 8192³"}}


def plot(cells, title, path):
    """TFLOP/s over the sequence length, a panel for each head dim and mask. Does nothing without main cells."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    main = [cell for cell in cells if cell["group"] == "main"]
    dims = sorted({int(cell["cell"].split()[0][1:]) for cell in main})
    if not dims:
        return False
    figure, axes = pyplot.subplots(2, len(dims), figsize=(1.5 + 4.2 * len(dims), 7.2), sharey=True, squeeze=False)
    legend = {}
    for row, mask in enumerate(("full", "causal")):
        for column, dim in enumerate(dims):
            panel = axes[row][column]
            for name, points in series(main, dim, mask).items():
                style = {"linewidth": 1.6, "markersize": 5, **STYLES.get(name, {"marker": ".", "label": name})}
                line, = panel.plot(*zip(*points), **style)
                legend.setdefault(style["label"], line)
            panel.set_title(f"d {dim}, {mask}", fontsize=11)
            panel.set_xscale("log", base=2)
            lengths = sorted({length for points in series(main, dim, mask).values() for length, _ in points})
            panel.set_xticks(lengths, [f"{n // 1024}k" if n >= 1024 else str(n) for n in lengths])
            panel.minorticks_off()
            panel.set_ylim(bottom=0)
            panel.grid(alpha=0.3)
            if column == 0:
                panel.set_ylabel("TFLOP/s")
            if row == 1:
                panel.set_xlabel("sequence length (16k tokens in the batch)")
    figure.suptitle(title, fontsize=11)
    figure.legend(legend.values(), legend.keys(), loc="lower center", ncol=len(legend), frameon=False)
    figure.tight_layout(rect=(0, 0.05, 1, 0.98))
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return True
