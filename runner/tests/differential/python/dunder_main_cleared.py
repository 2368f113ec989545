import sys
print("x")
sys.modules["__main__"].__dict__.clear()
