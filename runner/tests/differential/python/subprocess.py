import subprocess
import sys
print(subprocess.run(["sh", "-c", "echo out; echo err >&2; exit 3"]).returncode)
print(subprocess.check_output([sys.executable, "-c", "import sys; print(sys.argv, sys.flags)"], text=True))
