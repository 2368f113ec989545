import os
print("lost in the buffer")
os.write(1, b"raw\n")
os._exit(9)
