"""Unblinds a reader study: what real and generated volumes were given on each question, and how far readers agree.

    python tabulate.py ../readers/scores.csv [MORE.csv ...]

Needs Python 3.11 and numpy, and key.json in the folder of this file. Prints tables; writes nothing.
"""

import csv
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence

import numpy as np

QUESTIONS = ("appearance", "anatomy", "consistency")
LEVELS = (1, 2, 3, 4)
KINDS = ("real", "generated")

Scores = dict[tuple[str, str, str], int]  # (case, reader, question) to 1 .. 4


def main(arguments: Sequence[str]) -> int:
    """Prints the tables of the score sheets named; returns the exit status, 2 where one cannot be used."""
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        key = json.loads(pathlib.Path(__file__).with_name("key.json").read_text())
        scores = read_scores([pathlib.Path(name) for name in arguments], key["cases"])
    except UnicodeDecodeError:
        print("a sheet is not UTF-8: save it once more, as CSV UTF-8", file=sys.stderr)
        return 2
    except (OSError, ValueError, RecursionError) as error:
        print(error, file=sys.stderr)
        return 2
    print(table(scores, key["cases"]))
    return 0


def read_scores(paths: Sequence[pathlib.Path], cases: Mapping[str, Mapping[str, str]]) -> Scores:
    """Reads what readers wrote into their sheets; a cell left empty is no score.

    Raises:
      ValueError: naming the file and the line, for a case that is not in the study, a cell that is no score, or one given twice.
    """
    scores: Scores = {}
    for path in paths:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets put a mark at the start
            first = file.readline()
            file.seek(0)
            rows = csv.DictReader(file, delimiter=next((mark for mark in ";\t" if mark in first), ","))
            if missing := {"case", "reader", *QUESTIONS} - set(rows.fieldnames or ()):
                raise ValueError(f"{path}: no column {', '.join(sorted(missing))}; keep the first line as it was")
            for line, row in enumerate(rows, start=2):
                if not any(row.values()):
                    continue
                if row["case"] not in cases:
                    raise ValueError(f"{path}, line {line}: {row['case']!r} is not a case of this study")
                for question in QUESTIONS:
                    text = (row[question] or "").strip()
                    if not text:
                        continue
                    if text not in map(str, LEVELS):
                        raise ValueError(f"{path}, line {line}: {question} is {text!r}; use 1, 2, 3 or 4")
                    cell = (row["case"], (row["reader"] or "").strip(), question)
                    if cell in scores:
                        raise ValueError(f"{path}, line {line}: {cell[1]!r} scored {question} of {cell[0]} before")
                    scores[cell] = int(text)
    if not scores:
        raise ValueError("no scores in these sheets: fill in 1 to 4")
    return scores


def table(scores: Scores, cases: Mapping[str, Mapping[str, str]]) -> str:
    """Summarises each question and reader: mean and standard deviation, the share of the highest score, and agreement."""
    readers = sorted({reader for _, reader, _ in scores})
    lines = [
        f"{'question':<12} {'reader':<16} "
        + "  ".join(f"{kind + ': mean +- sd':>24} {'best':>5} {'n':>4}" for kind in KINDS)
    ]
    for question in QUESTIONS:
        for reader in [*readers, "all"] if len(readers) > 1 else readers:
            columns = []
            for kind in KINDS:
                values = [
                    value
                    for (case, by, asked), value in scores.items()
                    if asked == question and reader in (by, "all") and cases[case]["kind"] == kind
                ]
                columns.append(_summary(values))
            lines.append(f"{question:<12} {reader:<16} " + "  ".join(columns))
    lines += ["", f"{'question':<12} agreement (Krippendorff's alpha, ordinal): all cases, real alone, generated alone"]
    for question in QUESTIONS:
        alphas = []
        for kinds in (KINDS, KINDS[:1], KINDS[1:]):
            of = [case for case in cases if cases[case]["kind"] in kinds]
            sheet = [[scores.get((case, reader, question), np.nan) for case in of] for reader in readers]
            alpha = krippendorff_alpha(np.array(sheet, float).reshape(len(readers), len(of)))
            alphas.append(f"{'-' if alpha is None else f'{alpha:.3f}':>8}")
        lines.append(f"{question:<12} {' '.join(alphas)}")
    lines += [
        "",
        "Scores 1 to 4, 4 is best. best: the share of 4. alpha: 1 is full agreement, 0 that of chance,",
        "- none.",
    ]
    return "\n".join(lines)


def krippendorff_alpha(scores: np.ndarray) -> float | None:
    """Computes Krippendorff's alpha for ordered scores: any number of readers, missing cells, chance taken off.

    Unlike Fleiss' kappa it counts a 3 against a 4 as less of a difference than a 1 against a 4 and needs no complete sheets;
    unlike the intraclass correlation it takes the steps between scores for no equal lengths.

    Args:
      scores: [readers, cases], NaN where there is none.

    Returns:
      1 for full agreement, 0 for that of chance, below 0 for less; None where fewer than two readers scored a case, or all
      scores are the same.
    """
    levels = np.unique(scores[~np.isnan(scores)])
    counts = np.array([(scores == level).sum(axis=0) for level in levels], float).reshape(len(levels), scores.shape[1])
    counts = counts[:, counts.sum(axis=0) >= 2]  # a score without another says nothing of agreement
    of_case, of_level = counts.sum(axis=0), counts.sum(axis=1)
    total = of_level.sum()
    # Pairs of scores of one case, each case with the weight of its scores (Krippendorff 2011, "Computing alpha-reliability").
    observed = np.einsum("ac,bc,c->ab", counts, counts, 1 / (of_case - 1)) - np.diag(counts @ (1 / (of_case - 1)))
    expected = np.outer(of_level, of_level) - np.diag(of_level)
    ranks = np.cumsum(of_level) - of_level / 2
    apart = (ranks[:, None] - ranks) ** 2
    chance = np.sum(expected * apart)
    return None if chance == 0 else float(1 - (total - 1) * np.sum(observed * apart) / chance)


def _summary(values: Sequence[int]) -> str:
    if not values:
        return f"{'-':>24} {'-':>5} {0:>4}"
    deviation = f"{np.std(values, ddof=1):.2f}" if len(values) > 1 else "-"
    said = f"{np.mean(values):.2f} +- {deviation}"
    return f"{said:>24} {np.mean(np.array(values) == LEVELS[-1]):>5.0%} {len(values):>4}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
