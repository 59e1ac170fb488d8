"""Former name of ``darkroom proposals``; works for one more version."""

import subprocess
import sys

if __name__ == "__main__":
    print("python -m darkroom.datamodules.proposals is deprecated; use `darkroom proposals`", file=sys.stderr)
    sys.exit(subprocess.call([sys.executable, "-m", "darkroom", "proposals", *sys.argv[1:]]))
