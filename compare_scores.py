"""Scores of several models, or of one at several steps: a table and a picture, from results of both evaluations.

Reads results of evaluate_jglue.py (jglue.json) and evaluate_text.py, with their records; those of the same weights make
one row. Writes scores/scores.md and scores/scores.png, with a record, and prints the table:

    python3 compare_scores.py step-1500/jglue.json step-3000/jglue.json text_result.json --output_dir scores
"""

from pathlib import Path

from bert_ja import cli, comparison, files, results, score_curve

STAGE = "compare_scores.py"
TABLE, PICTURE = "scores.md", "scores.png"
AGAIN = "name results of evaluate_jglue.py or evaluate_text.py"


def read(paths: tuple[str, ...]) -> list[results.Result]:
    """The results in all files; a file may hold those of several models."""
    return [result for path in paths for result in results.read(path, AGAIN)]


def main(*result_files: str, output_dir: str = "scores", part: str = "valid") -> None:
    """Compare the scores of models, by the optimizer steps of their training.

    Args:
        result_files: Files of evaluate_jglue.py (jglue.json, or its folder) and evaluate_text.py, with their records.
        output_dir: Folder to write; replaced if it was written by this stage.
        part: Part of JGLUE whose scores are compared, valid or test.
    """
    cli.require(
        {
            f"no result is named: {AGAIN}": bool(result_files),
            f"--part must be valid or test, got {part!r}": part in results.PARTS,
        }
    )
    files.require_replaceable(output_dir, STAGE)
    found = read(result_files)
    comparison.require_comparable(found)
    rows = comparison.rows(found, part)
    for doubt in comparison.doubts(found):
        cli.say(f"warning: the results of JGLUE were not found alike, {doubt}")
    if not score_curve.names_of(rows):
        raise cli.StageError(f"no result has scores on the {results.PARTS[part]} part: name another --part")
    table = score_curve.table(rows)

    with files.output_folder(output_dir, STAGE) as folder:
        files.write_bytes(folder / TABLE, table.encode())
        files.write_bytes(folder / PICTURE, score_curve.draw(rows))
        record = {
            "stage": STAGE,
            "options": {"part": part},
            "versions": files.versions("matplotlib"),
            "inputs": [files.describe(path) for path in dict.fromkeys(result.path for result in found)],
            "outputs": files.describe_folder(folder),
            "corpus": {"private": any(files.corpus_facts(result.record)["private"] for result in found)},
            "run": files.run_facts(output_dir=output_dir),
        }
        files.write_record(folder, record)
    print(table, end="")
    cli.say(f"wrote the scores of {len(rows)} models to {Path(output_dir) / TABLE} and {PICTURE}")


if __name__ == "__main__":
    cli.run(main)
