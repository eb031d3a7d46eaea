"""From sources to a prepared corpus: ``python -m pretrain.prepare [CONFIG.yaml] [key=value ...]``.

The corpus lies in a folder of data.folder that is named by the fingerprint of its inputs: unchanged inputs are not
prepared again, and a preparation that was killed continues where it stopped. Without a config the embedded default is
prepared.
"""

import sys
from collections.abc import Sequence

from pretrain.runtime.command import run_command


def main(argv: Sequence[str]) -> int:
    """The command ``python -m pretrain.prepare``."""
    from pretrain.config.loading import load_config, split_arguments
    from pretrain.runtime.command_line import CommandLine

    parser = CommandLine("pretrain.prepare", __doc__)
    parser.add_config()
    path, overrides = split_arguments(parser.read(argv).words)
    config = load_config(path, overrides)  # before torch is imported: a mistake is said at once
    from pretrain.data.corpus import read_manifest
    from pretrain.engine.checks import check_with_libraries
    from pretrain.preparation.prepare import prepare

    check_with_libraries(config, path)
    folder = prepare(config)
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
