import os
import sys
print("one")
os.write(1, b"two\n")
print("three", file=sys.stderr)
sys.stdout.write("four")
