import subprocess
import sys
# A fresh interpreter in both runs; the point is that this one's own open file does not matter to it.
kept = open("/sandbox/kept.txt", "w")
kept.write("kept")
script = "file = open('/sandbox/inner.txt', 'w'); file.write('inner')"
subprocess.run([sys.executable, "-c", script], check=True)
print(open("/sandbox/inner.txt").read())
