import os
read, write = os.pipe()
pid = os.fork()
if pid == 0:
    # Outlives the program that must flush, and reports through its error stream.
    os.close(write)
    os.read(read, 1)
    os.write(2, open("/sandbox/out.txt", "rb").read() + b"\n")
    os._exit(0)
os.close(read)
os.close(1)
file = open("/sandbox/out.txt", "w")
file.write("must be flushed")
# Nothing closes the file but the end; then the pipe closes, and the other process looks.
