import os
import site
import subprocess
import sys
directory = site.getusersitepackages()
print(directory, directory in sys.path)
