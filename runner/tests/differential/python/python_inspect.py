import os
os.environ["PYTHONINSPECT"] = "1"
print("then stdin is read as a program")
