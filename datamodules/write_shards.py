"""Former name of ``darkroom shards``; works for one more version."""

import subprocess
import sys

if __name__ == "__main__":
    print("python -m darkroom.datamodules.write_shards is deprecated; use `darkroom shards`", file=sys.stderr)
    sys.exit(subprocess.call([sys.executable, "-m", "darkroom", "shards", *sys.argv[1:]]))
