"""The command ``python -m pretrain.prepare``; what takes long is imported once signals are listened to."""

import sys
from collections.abc import Sequence

from pretrain.runtime.command import run_command


def main(argv: Sequence[str]) -> int:
    """The command ``python -m pretrain.prepare``."""
    from pretrain.config.loading import load_config, split_arguments
    from pretrain.data.corpus import read_manifest
    from pretrain.engine.checks import check_with_libraries
    from pretrain.preparation import prepare as preparation

    if "--help" in argv or "-h" in argv:
        print(preparation.__doc__)
        return 0
    path, overrides = split_arguments(argv)
    config = load_config(path, overrides)
    check_with_libraries(config, path)
    folder = preparation.prepare(config)
    manifest = read_manifest(folder)
    assert manifest is not None
    print(f"{folder}")
    for split, counts in manifest["splits"].items():
        tokens = counts["first_tokens"] + counts["second_tokens"]
        truncated = counts["first_truncated"] + counts["second_truncated"]
        print(f"  {split}: {counts['records']:,} records, {tokens:,} tokens, {truncated:,} views truncated")
    for source in manifest["sources"]:
        dropped = ", ".join(f"{number:,} {reason}" for reason, number in source["dropped"].items())
        left = ", ".join(f"{number:,} {reason}" for reason, number in source["dropped_wordings"].items())
        bad = f", {source['bad']:,} bad rows left out" if source["bad"] else ""
        bad += f", {source['left_out']:,} rows left out by keep" if source["left_out"] else ""
        bad += f", wordings dropped: {left}" if left else ""
        print(f"  {source['name']}: {source['read']:,} read, dropped: {dropped or 'none'}{bad}")
    for note in manifest["notes"]:
        print(f"  note: {note}")
    print(f"look at it: python -m pretrain.inspect {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, "before the end; start it again: what was prepared is kept"))
