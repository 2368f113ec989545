import os
# Flushed at the end only of the process.
file = open("/sandbox/out.txt", "w")
file.write("must be flushed")
print(os.path.getsize("/sandbox/out.txt"))
