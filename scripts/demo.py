"""The main job on the embedded default: every experiment, one report, in about a minute."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

OUT = Path("demo-report")
COMMAND = [
    *("run", "demo", "--corpus", "demo", "--out", str(OUT)),
    *("--max-documents", "10", "--lens-positions", "100"),
]


def main() -> None:
    """Run the command that the README shows."""
    moe_lens = Path(sys.executable).with_name("moe-lens")
    print("$ moe-lens " + " ".join(COMMAND), flush=True)
    sys.exit(subprocess.run([str(moe_lens), *COMMAND], check=False).returncode)


if __name__ == "__main__":
    main()
