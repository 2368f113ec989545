import os
print(sorted(os.environ.items()))
print(list(os.environ))
print(os.getenvb(b"CUSTOM"), os.environb.get(b"EMPTY"))
os.system("env | grep -v '^_=' | sort")
os.environ["ADDED"] = "1"
del os.environ["CUSTOM"]
os.system("env | grep -v '^_=' | sort")
import posix
print(sorted(posix.environ.items()))
